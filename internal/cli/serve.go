package cli

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/demo"
	"github.com/staunch-project/staunch/internal/store"
)

// newLogger logs to standard error as the configuration says.
func newLogger(g *globals, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil { // checked by config
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(g.stderr, o))
	}
	return slog.New(slog.NewTextHandler(g.stderr, o))
}

//go:embed init.yaml
var initConfig string

func newInitCmd(g *globals) *cobra.Command {
	var path, name string
	var another bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a configuration, the key file and the first admin's token",
		Long: `Make what a first start needs: a configuration in shadow mode, where there is
none, the key file that seals secrets, the database, and the first admin's token,
which is printed this once.

Back the key file up apart from the database: without it neither sealed secrets
can be opened nor the record log be verified.

Where every admin's token is lost, --another makes one more. It takes the database and
the key file, and the server stopped where the database is SQLite. Revoke the lost
ones with it.`,
		Example: `  staunch init
  staunch init --config /etc/staunch/staunch.yaml --name alice
  staunch init --another --name alice-2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wrote := false
			if another {
				if _, err := os.Stat(path); err != nil {
					return fmt.Errorf("reading the configuration: %w", err)
				}
			}
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return fmt.Errorf("making the configuration's folder: %w", err)
				}
				f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return fmt.Errorf("writing the configuration: %w", err)
				}
				if _, err := f.WriteString(initConfig); err != nil {
					return errors.Join(fmt.Errorf("writing the configuration: %w", err), f.Close())
				}
				if err := f.Close(); err != nil {
					return fmt.Errorf("writing the configuration: %w", err)
				}
				wrote = true
			}
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			mint := app.Init
			if another {
				mint = app.Another
			}
			secret, err := mint(cmd.Context(), cfg, name)
			if errors.Is(err, app.ErrHasAdmin) {
				return &exitError{code: ExitConflict, err: err, hint: "staunch serve starts the server and staunch token create makes further tokens; where the admin's is lost, staunch init --another makes one more"}
			}
			if err != nil {
				return stopFirst(err)
			}
			out := struct {
				V      int    `json:"v"`
				Config string `json:"config"`
				Key    string `json:"key_file"`
				URL    string `json:"url"`
				Token  string `json:"token"`
			}{staunch.Version, path, cfg.KeyFile, cfg.URL, secret.Reveal()}
			if g.output != formTable {
				return g.print(out, nil)
			}
			if wrote {
				g.outf("configuration  %s (shadow mode: it watches and does nothing)\n", path)
			}
			g.outf("key file       %s (back it up, apart from the database)\n", cfg.KeyFile)
			g.outf("admin token    %s\n", secret.Reveal())
			g.outf("\nThe token is shown this once. Next:\n\n  export STAUNCH_URL=%s STAUNCH_TOKEN=%s\n  staunch serve --config %s\n", cfg.URL, secret.Reveal(), path)
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "staunch.yaml", "the configuration")
	cmd.Flags().StringVar(&name, "name", "admin", "the token's name, which records call its owner by")
	cmd.Flags().BoolVar(&another, "another", false, "make one more admin's token, for whoever lost theirs")
	return cmd
}

// loadConfig is config.Load, with a hint for whoever has no configuration yet.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	if err == nil {
		return cfg, nil
	}
	switch st, serr := os.Stat(path); {
	case errors.Is(serr, os.ErrNotExist):
		err = &exitError{code: ExitFailure, err: err, hint: "staunch init makes one; --config names one that lies elsewhere"}
	case serr == nil && st.IsDir():
		err = &exitError{code: ExitFailure, err: err, hint: "--config names the file, not its folder"}
	}
	return nil, err
}

func newServeCmd(g *globals) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Run a node: take records in, decide, contain, answer the API and AuthZEN. It uses
SQLite in the data folder unless postgres_url is configured. It ends at SIGINT or
SIGTERM; what is under way is durable and is taken up at the next start. SIGHUP
reloads the configuration, as does "staunch reload".

Rules that are refused are logged with file and line, and the node starts with the
others; "staunch doctor" lists them.`,
		Example: `  staunch serve --config staunch.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getenv("GOGC") == "" {
				allowHeap()
			}
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			log := newLogger(g, cfg.Log)
			setup, err := app.Load(cfg, false)
			if err != nil {
				return err
			}
			for _, e := range setup.RuleErrors {
				log.Warn("a rule was refused", "place", e.Place(), "rule", e.Rule, "reason", e.Reason)
			}
			a, err := app.New(cmd.Context(), setup, app.Options{Log: log, Version: version})
			if err != nil {
				return err
			}
			if err := a.Start(cmd.Context()); err != nil {
				return errors.Join(err, a.Stop())
			}
			log.Info("staunch is running", "url", cfg.URL, "listen", a.Addr().String(), "mode", cfg.Mode.String(), "bundle", setup.Bundle.Hash)
			hangup := onHangup(cmd.Context())
			for {
				select {
				case <-cmd.Context().Done():
					log.Info("stopping")
					return a.Stop()
				case err := <-a.Failed():
					return errors.Join(err, a.Stop())
				case <-hangup:
					if r, err := a.Reload(cmd.Context(), "SIGHUP", false); err != nil {
						log.Error("the configuration was not reloaded; the one before stays in force", "error", err)
					} else {
						log.Info("reloaded", "bundle", r.Bundle, "changed", r.Changed, "notes", strings.Join(r.Notes, "; "))
					}
				}
			}
		},
	}
	cmd.Flags().StringVar(&path, "config", "staunch.yaml", "the configuration")
	return cmd
}

func newValidateCmd(g *globals) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration and everything that it names",
		Long: `Read the configuration, its rules, policies, identities and mappings, and check
all of it without opening anything: no database, no platform. Every problem is
named with file and line; the exit code is 3 when there is one. What is valid and
usually not meant, such as a policy for a rule that is not there, is a note.`,
		Example: `  staunch validate --config staunch.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			s, err := app.Load(cfg, true)
			if err != nil {
				return err
			}
			if err := app.Check(s); err != nil {
				return err
			}
			out := struct {
				V          int    `json:"v"`
				Config     string `json:"config"`
				Mode       string `json:"mode"`
				Bundle     string `json:"bundle"`
				Realms     int    `json:"realms"`
				Sources    int    `json:"sources"`
				Rules      int    `json:"rules"`
				Policies   int    `json:"policies"`
				Identities int    `json:"identities"`
				// Notes say what may be meant and usually is not.
				Notes []validateNote `json:"notes"`
			}{
				staunch.Version, path, cfg.Mode.String(), s.Bundle.Hash, len(cfg.Realms), len(cfg.Sources),
				len(s.Bundle.Rules.Rules()), len(s.Bundle.Policy.Policies()), len(s.Identities), []validateNote{},
			}
			for _, p := range app.Doubts(s) {
				out.Notes = append(out.Notes, validateNote{p.Place, p.Reason})
			}
			if g.output != formTable {
				return g.print(out, nil)
			}
			g.outf("%s is valid: %d realms, %d sources, %d rules, %d policies, %d identities; mode %s\nbundle %s\n",
				path, out.Realms, out.Sources, out.Rules, out.Policies, out.Identities, out.Mode, out.Bundle)
			for _, n := range out.Notes {
				g.outf("note: %s: %s\n", clean(n.Place), clean(n.Message))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "staunch.yaml", "the configuration")
	return cmd
}

// validateNote is what validate remarks on.
type validateNote struct {
	Place   string `json:"place"`
	Message string `json:"message"`
}

func newDemoCmd(g *globals) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a stolen token stop working",
		Long: `Start the engine on SQLite in a temporary folder, and in the same process a small
estate: an OAuth 2 authorization server, an API that introspects every call,
another that asks AuthZEN, a rightful workload, and a thief with its stolen
token. It plays the theft, shows the timeline, releases, and stays up until
Ctrl-C. With --once it ends by itself, with an error if anything was not
contained or not restored.

Everything listens on loopback and is gone at the end.`,
		Example: `  staunch demo
  staunch demo --once`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), g, once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the story")
	return cmd
}

func runDemo(ctx context.Context, g *globals, once bool) (err error) {
	dir, err := os.MkdirTemp("", "staunch-demo-")
	if err != nil {
		return fmt.Errorf("making the demo's folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	estate, err := demo.New(ctx)
	if err != nil {
		return err
	}
	defer estate.Stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("starting the demo: %w", err)
	}
	path, err := estate.WriteConfig(dir, l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	cfg, err := config.Load(path)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	admin, err := app.Init(ctx, cfg, "demo-"+rand.Text()[:6])
	if err != nil {
		return errors.Join(err, l.Close())
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a, err := app.New(ctx, setup, app.Options{Listener: l, Version: version, Log: newLogger(g, config.Log{Level: "warn"})})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	if err := a.Start(ctx); err != nil {
		return err
	}
	token := func(t store.Token) staunch.Secret {
		if err != nil {
			return staunch.Secret{}
		}
		var s staunch.Secret
		s, _, err = app.MakeToken(ctx, a.Store(), t, "demo")
		return s
	}
	engine := demo.Engine{
		URL:         cfg.URL,
		AccessLog:   token(store.Token{Name: "access log shipper", Role: "source", Source: demo.SourceAccessLog}),
		LeakReports: token(store.Token{Name: "leak scanner", Role: "source", Source: demo.SourceLeaks}),
		PEP:         token(store.Token{Name: "ledger API", Role: "pep"}),
	}
	if err != nil {
		return err
	}
	estate.Use(engine)
	g.outf("staunch %s, on SQLite, at %s\n", version, cfg.URL)
	pace := 700 * time.Millisecond
	if once {
		pace = 0
	}
	story := &demo.Story{Estate: estate, Out: g.stdout, Admin: admin, Pace: pace}
	out, err := story.Play(ctx)
	if err != nil {
		return fmt.Errorf("the demo did not keep its promise: %w", err)
	}
	if once {
		return nil
	}
	g.outf("\nIt stays up until Ctrl-C. Look around with\n\n  export STAUNCH_URL=%s STAUNCH_TOKEN=%s\n  bin/staunch show %s\n  bin/staunch list\n  bin/staunch audit verify\n\nIts configuration is in %s\n",
		cfg.URL, admin.Reveal(), out.Containment, dir)
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.Failed():
		return err
	}
}
