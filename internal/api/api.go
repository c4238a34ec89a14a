package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// ErrTooLarge says that a body is larger than allowed, once unpacked. An
// Ingester's error wraps it for what is answered with 413.
var ErrTooLarge = errors.New("the body is too large")

// Ingester takes pushed records. Its methods are called concurrently.
type Ingester interface {
	// Ingest reads body to its end, commits what its records cause, and reports.
	// encoding is the Content-Encoding header. The caller is known to be allowed
	// to post for the source.
	//
	// Errors: staunch.ErrNotFound (no such source, or one that is not pushed to),
	// staunch.ErrOverloaded (try again), ErrTooLarge, staunch.ErrInvalid or a
	// *staunch.Problem (the body as a whole cannot be read); anything else is
	// taken for a failure of ours, which the sender answers by sending again.
	// Beside an error the report says what was kept all the same.
	Ingest(ctx context.Context, source string, body io.Reader, encoding string) (IngestReport, error)
	// Challenge answers a vendor's verification request. handled is false, and
	// nothing is written, where the source's format knows none or r is not one.
	Challenge(source string, w http.ResponseWriter, r *http.Request) (handled bool)
}

// Cases opens, changes and explains containments. Methods that take a Tx run
// inside the transaction in which the caller was authorised, which may run
// again; each leaves a record that names who asked.
type Cases interface {
	// Contain opens a case by hand, or raises the open one on the same subject.
	// The same subject and key again give the same case.
	Contain(tx store.Tx, req ContainRequest, who string) (Opened, error)
	// Plan says what Contain would do now, by reading the platforms. It changes
	// nothing.
	Plan(ctx context.Context, req ContainRequest) (Draft, error)

	// PlanFile writes what Plan says as a file that Apply takes, signed, for who.
	PlanFile(ctx context.Context, req PlanFileRequest, who string) (staunch.PlanFile, error)
	// Apply opens a case that begins with exactly that plan, or refuses and
	// changes nothing. may is asked once the file is known to be authentic, and
	// again in the transaction that opens the case.
	Apply(ctx context.Context, req ApplyRequest, who string, may func(store.Reader) error) (Opened, error)

	// The methods below are contain.Engine's. An error that wraps
	// staunch.ErrConflict, while Revivals gives something and r confirms nothing,
	// is answered with what would be revived.
	Release(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error)
	Clear(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error)
	Judge(tx store.Tx, id, who string, j staunch.Judgement, reason string) (staunch.Containment, error)
	AdvanceWindow(tx store.Tx, id, who string) (staunch.Containment, error)
	Extend(tx store.Tx, id, who string, d time.Duration) (staunch.Containment, error)
	Approve(tx store.Tx, id, who, scopeHash, planHash string) (staunch.Containment, error)

	// Reach returns what is known to have come from the case's subject, where the
	// case's scope takes that with it.
	Reach(r store.Reader, con staunch.Containment) ([]staunch.Ref, error)
	// Revivals returns what releasing the case would bring back to life, a line
	// each.
	Revivals(r store.Reader, id string) ([]string, error)
	// Coming says what the stages that have not begun would do, by reading the
	// platforms; nil for a case that waits for none. It changes nothing, and what
	// could not be asked is an Error of the stage.
	Coming(ctx context.Context, con staunch.Containment, steps []staunch.Step) []ComingStage
	// D3FEND returns the techniques that the connector of the step declares for its
	// verb; nil where that is not known (any more).
	D3FEND(st staunch.Step) []string
}

// Knowledge answers what is known of a ref, from the reader that it is given.
type Knowledge interface {
	Resolve(r store.Reader, ref staunch.Ref, asOf staunch.Time) (staunch.Resolution, error)
	Suspicion(r store.Reader, res staunch.Resolution, asOf staunch.Time) (staunch.Suspicion, error)
	// Lineage returns at most limit nodes and says when there was more.
	Lineage(r store.Reader, ref staunch.Ref, limit int) (Lineage, bool, error)
}

// Guard answers AuthZEN requests. A body that is not one gives an error that
// wraps staunch.ErrInvalid; it bounds what it reads.
type Guard interface {
	Evaluation(body io.Reader) (any, error)
	Evaluations(body io.Reader) (any, error)
}

// Operator looks after the process.
type Operator interface {
	// Reload reads the configuration again, all or nothing, and leaves a
	// staunch.RecordConfig that names who in the transaction that activates it.
	// The error wraps staunch.ErrInvalid (joined *staunch.Problem values name
	// every place) where the new configuration is not usable. With keepGoing,
	// rules that are refused are left out and named in place of an error.
	Reload(ctx context.Context, who string, keepGoing bool) (Reloaded, error)
	// Doctor looks at everything that has to work and changes nothing.
	Doctor(ctx context.Context) (Diagnosis, error)
	// Storage says what the database has and how long it is kept, PreviewRetention
	// what would be deleted now. Neither changes anything.
	Storage(ctx context.Context) (Storage, error)
	PreviewRetention(ctx context.Context) (store.Sweep, error)
	// Checkpoint signs a checkpoint of the record log, and takes it to where the
	// configuration says. The error wraps record.ErrBroken, and nothing is signed,
	// where the log was changed; and record.ErrNotLogged where one was signed and
	// kept, and the transparency log did not take it.
	Checkpoint(ctx context.Context) (record.Checkpoint, error)
	// LastCheckpoint returns the newest checkpoint that this node knows of, nil for
	// none.
	LastCheckpoint() (*record.Checkpoint, error)
	// ReportHealth keeps who's report of how many of a group are healthy. The error
	// wraps staunch.ErrInvalid where it cannot be, staunch.ErrConflict where a later
	// one is there.
	ReportHealth(tx store.Tx, h GroupHealth, who string) (GroupHealthKept, error)
	// ForgetTrips has what a breaker counted forgotten, so that it does not open
	// again at once when it is closed.
	ForgetTrips(tx store.Tx, scope string) error
	// Ready returns nil once the process may be sent requests. It is called often
	// and must be cheap.
	Ready(ctx context.Context) error
}

// Options are what the API works with. All but TransparencyLog, Metrics, TLS, Log, Clock,
// Version and Observe are required.
type Options struct {
	Store     store.Store
	Auth      *auth.Authenticator
	Ingest    Ingester
	Cases     Cases
	Knowledge Knowledge
	Guard     Guard
	Operator  Operator
	Rehearse  Rehearser
	Trust     Truster
	Drill     Driller
	// Chain checks and exports the record log.
	Chain *record.Chain
	// TransparencyLog is the log that has the checkpoints; nil for none.
	TransparencyLog *record.TransparencyLog
	// Metrics serves /metrics; without it the endpoint answers 404.
	Metrics http.Handler
	// MetricsOpen serves it without a token (config.Config.MetricsOpen).
	MetricsOpen bool
	// URL is how others reach this node, for AuthZEN's discovery document.
	URL string
	// TLS has the certificate for Serve; nil serves in the clear.
	TLS *config.TLS
	// Version is the release, for the description.
	Version string
	Clock   staunch.Clock
	Log     *slog.Logger
	// Observe is told of every request by its route ("GET /v1/signals", "" for
	// none). It must not block.
	Observe func(route string, status int, took time.Duration)
	// MostIngests bounds the bodies that are read at once; 0 gives 64. One source
	// has three quarters of them at most. What comes beyond is answered with 429.
	MostIngests int
}

// Bounds of requests and of the time that they may take.
const (
	// MaxBody is the most bytes of a request's body, but for records, plans and
	// policies.
	MaxBody = 64 << 10
	// MaxLongBody is the most bytes of a body with a plan or policies.
	MaxLongBody = staunch.MaxPlanFile + MaxBody
	// MaxIngest is the most bytes of a body of records, packed or not.
	MaxIngest = 10 << 20

	headerTimeout = 5 * time.Second
	bodyTimeout   = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	// leanTimeout bounds the AuthZEN answers, usualTimeout what reads or writes
	// the store, slowTimeout what asks platforms, auditTimeout what reads the
	// whole log.
	leanTimeout  = 10 * time.Second
	usualTimeout = 30 * time.Second
	slowTimeout  = 2 * time.Minute
	auditTimeout = 30 * time.Minute
	// stopTimeout is how long requests under way may go on when Serve ends.
	stopTimeout = 10 * time.Second
	maxHeader   = 32 << 10
)

// Server answers requests. It is safe for concurrent use.
type Server struct {
	opt    Options
	mux    *http.ServeMux
	api    huma.API
	routes []Route
	byPath map[string]*Route // by pattern
	rights map[auth.Verb]auth.Right
	bodies places
	spec   func() (spec, error) // written when somebody asks
	// discovery is AuthZEN's document.
	discovery []byte
}

// New makes a server. Nothing is opened.
func New(opt Options) (*Server, error) {
	switch {
	case opt.Store == nil, opt.Auth == nil, opt.Ingest == nil, opt.Cases == nil, opt.Knowledge == nil,
		opt.Guard == nil, opt.Operator == nil, opt.Rehearse == nil, opt.Trust == nil, opt.Drill == nil, opt.Chain == nil:
		return nil, errors.New("api: Store, Auth, Ingest, Cases, Knowledge, Guard, Operator, Rehearse, Trust, Drill and Chain are required")
	case opt.URL == "":
		return nil, errors.New("api: URL is required")
	}
	return build(opt)
}

// build registers the routes; it uses nothing of opt that could be missing, so
// that the description can be had without a running system.
func build(opt Options) (*Server, error) {
	if opt.Clock == nil {
		opt.Clock = staunch.SystemClock{}
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.MostIngests <= 0 {
		opt.MostIngests = 64
	}
	if opt.Version == "" {
		opt.Version = "dev"
	}
	s := &Server{
		opt: opt, mux: http.NewServeMux(), byPath: map[string]*Route{}, rights: map[auth.Verb]auth.Right{},
		bodies: places{free: opt.MostIngests, held: map[string]int{}},
	}
	for _, r := range auth.Rights() {
		s.rights[r.Verb] = r
	}
	if err := s.register(); err != nil {
		return nil, err
	}
	return s, nil
}

// Handler returns the whole of the API.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

// Serve answers on l until ctx ends, then lets what is under way finish for a
// while, and closes l in any case. A nil error is an orderly end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		// Routes that take longer move their own deadline.
		WriteTimeout:   bodyTimeout + usualTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if t := s.opt.TLS; t != nil {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return errors.Join(fmt.Errorf("loading the API's certificate: %w", err), l.Close())
		}
		srv.TLSConfig = &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
		}
		l = tls.NewListener(l, srv.TLSConfig)
	}
	var served error
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		served = srv.Serve(l)
	}()
	select {
	case <-stopped:
		return fmt.Errorf("serving the API on %s: %w", l.Addr(), served)
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(sctx)
	if err != nil {
		// What is still under way is cut: everything durable is so by commit.
		err = srv.Close()
	}
	<-stopped // Serve says only that it was closed
	if err != nil {
		return fmt.Errorf("stopping the API: %w", err)
	}
	return nil
}

// now is the clock's time.
func (s *Server) now() staunch.Time { return staunch.TimeOf(s.opt.Clock.Now()) }
