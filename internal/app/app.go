package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	connectors "github.com/staunch-project/staunch/internal/connector/registry"
	"github.com/staunch-project/staunch/internal/connector/wrap"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/notify"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/record/rekor"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// Options are what is not in the configuration.
type Options struct {
	Log   *slog.Logger
	Clock staunch.Clock
	// Version is the release.
	Version string
	// Listener, when given, is used in place of the configured address.
	Listener net.Listener
	// CallTimeout bounds one call to a platform; 0 is the engine's default.
	CallTimeout time.Duration
	// Observer is told of every action on a case, for the demo's timeline.
	Observer contain.Observer
	// OnDecision is told of every decision after its commit.
	OnDecision func(staunch.Decision)
}

// App is one node.
type App struct {
	cfg      *config.Config
	opt      Options
	keys     *seal.Keyring
	chain    *record.Chain
	store    store.Store
	inv      *inventory.Inventory
	engine   *contain.Engine
	guard    *guard.Guard
	pipe     *pipeline.Pipeline
	auth     *auth.Authenticator
	notify   *notify.Dispatcher
	api      *api.Server
	conns    map[string]connector.Connector
	modes    map[string]staunch.Mode
	metrics  *prometheus.Registry
	listener net.Listener
	warmers  []connector.Warmer
	closers  []func()

	logins      logins
	checkpoints checkpoints
	rekor       *rekor.Client // nil for no transparency log
	drills      drills
	comings     comings
	sweeper     *retain.Sweeper

	mu    sync.RWMutex
	setup *Setup
	nodes nodes

	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error
}

// databaseName is the SQLite file in the data folder.
const databaseName = "staunch.db"

// openStore opens PostgreSQL where it is configured, otherwise SQLite.
func openStore(ctx context.Context, cfg *config.Config, chain *record.Chain, log *slog.Logger) (store.Store, error) {
	so := sqlstore.Options{Chain: chain, Log: log, Node: cfg.Node}
	if !cfg.PostgresURL.Empty() {
		st, err := sqlstore.OpenPostgres(ctx, cfg.PostgresURL, so)
		if err != nil {
			return nil, err // not st: a nil of its type is a store
		}
		return st, nil
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	st, err := sqlstore.OpenSQLite(ctx, filepath.Join(cfg.DataDir, databaseName), so)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// openKeys loads the key file and makes the chain of records from it.
func openKeys(cfg *config.Config) (*seal.Keyring, *record.Chain, error) {
	keys, err := seal.Load(cfg.KeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, &staunch.Problem{Place: cfg.KeyFile, Reason: "there is no key file", Hint: "run `staunch init` first"}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("loading the key file: %w", err)
	}
	chain, err := record.NewChain(keys.DeriveKey(record.KeyPurpose))
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the record chain: %w", err)
	}
	return keys, chain, nil
}

// New opens everything that a node needs. On an error nothing stays open.
func New(ctx context.Context, setup *Setup, opt Options) (_ *App, err error) {
	cfg := setup.Config
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Clock == nil {
		opt.Clock = staunch.SystemClock{}
	}
	a := &App{
		cfg: cfg, opt: opt, setup: setup, inv: inventory.New(inventory.Limits{}), conns: map[string]connector.Connector{},
		modes: map[string]staunch.Mode{}, metrics: prometheus.NewRegistry(), failed: make(chan error, 1),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.keys, a.chain, err = openKeys(cfg); err != nil {
		return nil, err
	}
	if a.store, err = openStore(ctx, cfg, a.chain, opt.Log); err != nil {
		return nil, err
	}
	if err = a.connect(); err != nil {
		return nil, err
	}
	if err = a.openNotify(); err != nil {
		return nil, err
	}
	if t := cfg.Audit.TransparencyLog; t != nil {
		if a.rekor, err = rekor.New(t.URL, t.Log(), 0); err != nil {
			return nil, fmt.Errorf("preparing the transparency log: %w", err)
		}
		a.closers = append(a.closers, a.rekor.Close)
	}
	a.guard = a.newGuard()
	if a.engine, err = contain.New(contain.Options{
		Store: a.store, Connectors: a.conns, Sealer: a.keys, Guard: a.guard, Lineage: lineage{a.inv},
		Teller: a.teller(), Observer: opt.Observer, Clock: opt.Clock, Log: opt.Log, Node: cfg.Node, Owner: a.owner,
		Protected: a.protected, CallTimeout: opt.CallTimeout,
		Admit:  a.admitApproved,
		Judged: a.judged,
		Released: func(tx store.Tx, con staunch.Containment) error {
			if err := a.engine.Again(tx, con); err != nil {
				return err
			}
			return decide.Released(tx, con.Caps)
		},
		Approving: a.approving,
		Barred:    a.barredStep,
	}); err != nil {
		return nil, err
	}
	if a.pipe, err = pipeline.New(pipeline.Options{
		Store: a.store, Inventory: a.inv, Cases: a.engine, Clock: opt.Clock, Log: opt.Log, Sealer: a.keys,
		Digest: func(b []byte) string { return fmt.Sprintf("hmac-sha256:%x", a.keys.MAC("record digest", b)) },
		IsOwn:  a.engine.IsOwn, Own: a.engine.OwnRefs, Guardrails: setup.Guardrails, Params: Params(cfg),
		Mode: cfg.Mode, PlatformOf: a.platformOf, Teller: a.teller(), Observe: opt.OnDecision,
	}, setup.Bundle); err != nil {
		return nil, err
	}
	if a.sweeper, err = a.newSweeper(); err != nil {
		return nil, err
	}
	a.auth = auth.New(a.store, auth.Options{Clock: opt.Clock, Observe: a.logins.note})
	var metrics = promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{})
	a.registerMetrics()
	a.drills = newDrills(a.metrics)
	if a.api, err = api.New(api.Options{
		Store: a.store, Auth: a.auth, Ingest: ingester{a}, Cases: cases{a}, Knowledge: knowledge{a}, Guard: evaluator{a.guard},
		Operator: operator{a}, Rehearse: &rehearser{a: a}, Trust: truster{a}, Drill: driller{a}, Chain: a.chain, Metrics: metrics, MetricsOpen: cfg.MetricsOpen, URL: cfg.URL,
		TLS: cfg.TLS, Version: opt.Version, Clock: opt.Clock, Log: opt.Log, TransparencyLog: logOf(cfg),
	}); err != nil {
		return nil, err
	}
	return a, nil
}

// Params returns the constants of suspicion that the configuration gives.
func Params(cfg *config.Config) decide.Params {
	return decide.Params{HalfLife: cfg.Suspicion.HalfLife.Std(), RollUp: cfg.Suspicion.RollUp, RevokeSources: cfg.Suspicion.RevokeSources}
}

func (a *App) newGuard() *guard.Guard {
	cfg, opt := a.cfg, a.opt
	var mappings []guard.Mapping
	for _, s := range cfg.Guard.Subjects {
		m := guard.Mapping{Type: s.Type, Ref: staunch.Ref{Kind: s.Kind, Realm: s.Realm, Scheme: s.Scheme}, Digest: s.Digest}
		if s.From != "id" {
			m.Property = s.From[len("properties."):]
		}
		mappings = append(mappings, m)
	}
	return guard.New(guard.Options{
		Store: a.store, Clock: opt.Clock, Log: opt.Log, Mappings: mappings,
		FailOpen: cfg.Guard.FailMode == "allow", StaleAfter: cfg.Guard.StaleAfter.Std(),
		Node: cfg.Node, Version: opt.Version, Bundle: func() string { return a.current().Bundle.Hash },
		Admit: a.admitGuard, Listen: a.listen,
	})
}

// factoryOf returns the factory of a realm's platform.
func factoryOf(cfg *config.Config, r config.Realm) (connector.Factory, error) {
	var names []string
	for _, f := range connectors.Factories() {
		if f.Platform == r.Platform {
			return f, nil
		}
		names = append(names, f.Platform)
	}
	sort.Strings(names)
	return connector.Factory{}, &staunch.Problem{Place: cfg.PlaceOf(r), Reason: fmt.Sprintf("platform %q is not known", r.Platform), Hint: fmt.Sprintf("one of %v", names)}
}

// Check makes what the set-up configures and can be made without opening
// anything, connectors and channels, and throws it away: what is wrong with
// their configuration shows.
func Check(s *Setup) error {
	cfg := s.Config
	var errs []error
	for _, r := range cfg.Realms {
		f, err := factoryOf(cfg, r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c, err := f.New(connector.Deps{
			Realm: r.Name, Decode: func(v any) error { return cfg.Decode(r.Connector, v) },
			Clock: staunch.SystemClock{}, Log: slog.New(slog.DiscardHandler), Secrets: secrets{},
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cfg.PlaceOf(r), err))
			continue
		}
		errs = append(errs, c.Close())
	}
	for i, c := range cfg.Notify {
		_, closeIdle, err := openChannel(c, staunch.SystemClock{})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: notify[%d]: %w", cfg.File(), i, err))
			continue
		}
		closeIdle()
	}
	for _, name := range s.unknownChannels() {
		errs = append(errs, &staunch.Problem{Place: cfg.File() + ": notify", Reason: fmt.Sprintf("has no channel %q, which a policy names", name)})
	}
	return errors.Join(errs...)
}

// Doubts returns what may be meant, and usually is not, of a set-up that is
// valid: policies that are in shadow or speak of rules and sources that are not
// there, and no rule at all. Each names its place.
func Doubts(s *Setup) []*staunch.Problem {
	var out []*staunch.Problem
	rules := map[string]bool{}
	for _, r := range s.Bundle.Rules.Rules() {
		rules[r.ID] = true
	}
	for _, r := range s.Bundle.Correlations.Rules() {
		rules[r.ID] = true
	}
	for _, e := range s.RuleErrors {
		rules[e.Rule] = true // it is told that it was refused
	}
	if len(rules) == 0 && len(s.Config.Sources) > 0 {
		out = append(out, &staunch.Problem{Place: s.Config.File() + ": rules", Reason: "there is no rule, so records accuse nobody but by findings of outside detectors"})
	}
	for _, p := range s.Bundle.Policy.Policies() {
		if p.Mode == staunch.ModeShadow && s.Config.Mode > staunch.ModeShadow {
			out = append(out, &staunch.Problem{Place: p.Place, Reason: "policy " + p.ID + " is in mode shadow, as every policy is that names no mode: it decides and nothing follows"})
		}
		for _, r := range p.Rules {
			// A finding of an outside detector is no rule of ours.
			if !rules[r] && !strings.HasPrefix(r, "source:") {
				out = append(out, &staunch.Problem{Place: p.Place, Reason: fmt.Sprintf("policy %s is for rule %q, and no rule has that id", p.ID, r)})
			}
		}
		for _, name := range p.Sources {
			if s.Sources[name] == nil {
				out = append(out, &staunch.Problem{Place: p.Place, Reason: fmt.Sprintf("policy %s is for source %q, which is not configured", p.ID, name)})
			}
		}
	}
	return out
}

// unknownChannels returns the channels that policies name and nobody configured:
// what goes to them reaches nobody.
func (s *Setup) unknownChannels() []string {
	known := map[string]bool{}
	for _, c := range s.Config.Notify {
		known[c.Name] = true
	}
	return slices.DeleteFunc(s.Bundle.Policy.Channels(), func(name string) bool { return known[name] })
}

func openChannel(c config.Channel, clock staunch.Clock) (notify.Bound, func(), error) {
	return notify.Open(notify.Config{
		Name: c.Name, Type: notify.Type(c.Type), URL: c.URL, Secret: c.Secret, MinTier: *c.MinTier, AllowHTTP: c.AllowHTTP,
	}, clock)
}

// connect makes the connectors and wraps them.
func (a *App) connect() error {
	m, err := wrap.NewMeters(a.metrics)
	if err != nil {
		return fmt.Errorf("registering the connectors' metrics: %w", err)
	}
	for _, r := range a.cfg.Realms {
		f, err := factoryOf(a.cfg, r)
		if err != nil {
			return err
		}
		node := r.Connector
		c, err := f.New(connector.Deps{
			Realm: r.Name, Decode: func(v any) error { return a.cfg.Decode(node, v) },
			Clock: a.opt.Clock, Log: a.opt.Log.With("realm", r.Name), Secrets: secrets{a},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", a.cfg.PlaceOf(r), err)
		}
		a.closers = append(a.closers, func() { _ = c.Close() }) // nothing of ours is lost by it
		if w, ok := c.(connector.Warmer); ok {
			a.warmers = append(a.warmers, w)
		}
		mode := staunch.ModeEnforce
		if r.Mode != nil {
			mode = *r.Mode
		}
		a.modes[r.Name] = mode
		c = wrap.Metrics(c, m, a.opt.Clock)
		c = wrap.RateLimit(c, rate.NewLimiter(rate.Limit(r.RatePerSecond), max(1, int(r.RatePerSecond))))
		c = wrap.Retry(c, wrap.RetryOptions{})
		if r.DryRun {
			// Nothing is contained by itself on this realm. What a person asks for is
			// held on the fast plane, and its steps say that nothing was sent.
			mode = min(mode, staunch.ModeRecommend)
			a.modes[r.Name] = mode
			c = wrap.DryRun(c, a.opt.Clock, "the realm is configured with dry_run")
		}
		c = wrap.InMode(c, mode, a.opt.Clock)
		a.conns[r.Name] = c
	}
	return nil
}

// platformOf returns the connector's platform on a realm and its mode. A realm
// without a connector is held on the fast plane alone, in full.
func (a *App) platformOf(realm string) (string, staunch.Mode) {
	c := a.conns[realm]
	if c == nil {
		return "", staunch.ModeEnforce
	}
	return c.Describe().Platform, a.modes[realm]
}

func (a *App) openNotify() error {
	var channels []notify.Bound
	for i, c := range a.cfg.Notify {
		b, closeIdle, err := openChannel(c, a.opt.Clock)
		if err != nil {
			return fmt.Errorf("%s: notify[%d]: %w", a.cfg.File(), i, err)
		}
		a.closers = append(a.closers, closeIdle)
		channels = append(channels, b)
	}
	a.notify = notify.NewDispatcher(notify.Options{Store: a.store, Log: a.opt.Log, Clock: a.opt.Clock}, channels)
	return nil
}

func (a *App) teller() notify.Teller {
	t := notify.Teller{Link: func(id string) string { return a.cfg.URL + "/v1/containments/" + id }}
	for _, c := range a.cfg.Notify {
		t.Channels = append(t.Channels, c.Name)
	}
	return t
}

// current returns the set-up in place.
func (a *App) current() *Setup {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.setup
}

// Store returns the store, for tests and the demo.
func (a *App) Store() store.Store { return a.store }

// Addr returns where the API listens, once started.
func (a *App) Addr() net.Addr { return a.listener.Addr() }

// Start activates the configuration and starts everything. It returns when the
// node answers requests.
func (a *App) Start(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	if err := a.guard.Load(ctx); err != nil {
		return err
	}
	if err := a.guard.Renew(ctx); err != nil {
		return err
	}
	if err := a.pipe.RefreshWatch(ctx); err != nil {
		return err
	}
	a.listener = a.opt.Listener
	if a.listener == nil {
		l, err := listenConfig().Listen(ctx, "tcp", a.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listening on %s: %w", a.cfg.Listen, err)
		}
		a.listener = l
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel = cancel
	if err := a.engine.Start(run); err != nil {
		cancel()
		return errors.Join(err, a.listener.Close())
	}
	a.wg.Go(func() { a.guard.Follow(run) })
	a.wg.Go(func() { a.notify.Run(run) })
	a.wg.Go(func() { a.refresh(run) })
	for _, w := range a.warmers {
		a.wg.Go(func() { a.keepWarm(run, w) })
	}
	a.wg.Go(func() { a.followBundle(run) })
	a.wg.Go(func() { a.keepLogins(run) })
	a.wg.Go(func() { a.keepDrills(run) })
	a.wg.Go(func() { a.sweeper.Run(run) })
	if a.cfg.Audit.CheckpointEvery > 0 {
		a.wg.Go(func() { a.keepCheckpoints(run) })
	}
	for _, c := range a.cfg.Sources {
		if c.Tail == nil {
			continue
		}
		a.wg.Go(func() { a.tail(run, c) })
	}
	a.wg.Go(func() {
		if err := a.api.Serve(run, a.listener); err != nil {
			select {
			case a.failed <- err:
			default:
			}
		}
	})
	return nil
}

// Reload reads the configuration again, all or nothing, or with keepGoing all but
// the rules that are refused.
func (a *App) Reload(ctx context.Context, who string, keepGoing bool) (api.Reloaded, error) {
	return operator{a}.Reload(ctx, who, keepGoing)
}

// Failed yields an error that ends the node by itself.
func (a *App) Failed() <-chan error { return a.failed }

// watchEvery is how often what is contained is read again, for what releases
// and other nodes changed.
const watchEvery = 2 * time.Second

func (a *App) refresh(ctx context.Context) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var shredded time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := a.pipe.RefreshWatch(ctx); err != nil && ctx.Err() == nil {
			a.opt.Log.Error("reading what is contained", "error", err)
		}
		if err := a.pipe.Settle(ctx); err != nil && ctx.Err() == nil {
			a.opt.Log.Error("judging correlations that have settled", "error", err)
		}
		if now := a.opt.Clock.Now(); now.Sub(shredded) >= shredEvery {
			shredded = now
			if err := a.shredExpired(ctx); err != nil && ctx.Err() == nil {
				a.opt.Log.Error("shredding secrets that ran out", "error", err)
			}
			if err := a.pruneCaps(ctx); err != nil && ctx.Err() == nil {
				a.opt.Log.Error("deleting caps of past hours", "error", err)
			}
		}
	}
}

// warmEvery is how often connectors get ready ahead.
const warmEvery = time.Minute

func (a *App) keepWarm(ctx context.Context, w connector.Warmer) {
	t := time.NewTicker(warmEvery)
	defer t.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, warmEvery/2)
		if err := w.Warm(within); err != nil && ctx.Err() == nil {
			a.opt.Log.Debug("a connector is not ready ahead", "error", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// shredEvery is how often sealed secrets are looked through for those whose time
// is over.
const shredEvery = 10 * time.Minute

// shredExpired deletes sealed secrets whose time is over, a page at a time.
func (a *App) shredExpired(ctx context.Context) error {
	now := staunch.TimeOf(a.opt.Clock.Now())
	for {
		n := 0
		err := a.store.Update(ctx, func(tx store.Tx) error {
			var err error
			n, err = tx.ShredExpired(now, store.MaxPage)
			return err
		})
		if err != nil || n < store.MaxPage {
			return err
		}
	}
}

// tail follows a source's file until ctx ends, and tries again after trouble.
func (a *App) tail(ctx context.Context, c config.Source) {
	src := a.current().Sources[c.Name]
	for ctx.Err() == nil {
		err := ingest.Tail(ctx, ingest.TailOptions{
			Path: c.Tail.Path, Source: c.Name, FromStart: *c.Tail.FromStart, Store: a.store, Log: a.opt.Log.With("source", c.Name),
			Take: func(ctx context.Context, lines []byte, first int, done func(store.Tx) error) error {
				return a.pipe.Lines(ctx, src, lines, first, done)
			},
		})
		if err != nil && ctx.Err() == nil {
			a.opt.Log.Error("following a file", "source", c.Name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}
}

// Stop ends everything that was started and closes what was opened. What is
// under way is durable and is taken up at the next start.
func (a *App) Stop() error {
	if a.cancel != nil {
		a.cancel()
		a.wg.Wait()
		a.engine.Wait()
		a.leave()
	}
	return a.close()
}

func (a *App) close() error {
	for _, c := range a.closers {
		c()
	}
	a.closers = nil
	if a.store == nil {
		return nil
	}
	err := a.store.Close()
	a.store = nil
	return err
}
