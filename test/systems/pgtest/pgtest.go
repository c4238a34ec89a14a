// Package pgtest starts private PostgreSQL servers for tests: loopback and a
// Unix socket only, on a free port, in a temporary directory, gone at the end
// even when the test process is killed. Any number may run at once.
//
// Without PostgreSQL on the machine a test is skipped, or fails when
// STAUNCH_REQUIRE_POSTGRES=1, as under make test. STAUNCH_POSTGRES_BIN names
// the directory with initdb and postgres when it is not one of the usual ones.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch/test/systems/internal/proc"
)

const (
	// Superuser is the role that every server starts with.
	Superuser = "postgres"
	// MinMajor is the oldest major version that the tests accept; it is also
	// the one that is preferred where several are installed.
	MinMajor = 15

	startLimit = 60 * time.Second
	stopGrace  = 20 * time.Second
	callLimit  = 30 * time.Second
)

// Options says how a server is to be set up. The zero value is a server for
// most tests.
type Options struct {
	// MaxConnections defaults to 200.
	MaxConnections int
	// LogStatements logs every statement with its time, user and database.
	LogStatements bool
	// JSONLog makes the server write its log as JSON lines to LogPath.
	JSONLog bool
	// Durable keeps fsync and full_page_writes on. Without it, which is
	// faster, committed data outlives any kill of the server, though not the
	// machine.
	Durable bool
	// Settings are further lines of postgresql.conf by name. They win over
	// what the other options set.
	Settings map[string]string
}

// Mode is a way of stopping a server.
type Mode syscall.Signal

// The ways of stopping a server.
const (
	// Fast rolls open transactions back, disconnects clients and writes a
	// checkpoint.
	Fast = Mode(syscall.SIGINT)
	// Immediate ends without a checkpoint; the next start recovers.
	Immediate = Mode(syscall.SIGQUIT)
	// Kill is kill -9 of the server's first process; the next start recovers.
	Kill = Mode(syscall.SIGKILL)
)

// Server is a private PostgreSQL server. Its fields must not be changed.
type Server struct {
	Host      string // 127.0.0.1
	Port      int
	Password  string // of Superuser
	SocketDir string // the directory of its Unix socket
	DataDir   string
	// LogPath is the file with its log: JSON lines under Options.JSONLog,
	// plain text otherwise. It grows over restarts and is not rotated.
	LogPath string
	// Version is what postgres --version says.
	Version string

	inst    install
	dir     string
	args    []string
	watcher *proc.Watcher

	mu      sync.Mutex
	process *proc.Process
}

// Start starts a server for tb, which ends with it.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	inst := require(tb)
	s, err := start(inst, opts)
	if err != nil {
		tb.Fatalf("starting PostgreSQL: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.close(); err != nil {
			tb.Errorf("stopping PostgreSQL: %v", err)
		}
	})
	return s
}

// Require skips tb, or fails it under STAUNCH_REQUIRE_POSTGRES=1, unless a
// PostgreSQL that Start can use is installed.
func Require(tb testing.TB) {
	tb.Helper()
	require(tb)
}

func require(tb testing.TB) install {
	tb.Helper()
	inst, err := find()
	if err == nil {
		return inst
	}
	proc.Missing(tb, "PostgreSQL", "STAUNCH_REQUIRE_POSTGRES", err,
		"install it (Debian: apt-get install postgresql) or point STAUNCH_POSTGRES_BIN at the directory with initdb")
	return install{}
}

// shared is the one server that the tests of a package have in common. It is
// state of the test process by intention: starting a server takes a second.
var shared struct {
	sync.Mutex
	server *Server
}

// Shared returns the server that all tests of this process share, started on
// first use. Its log has every statement. Tests must not stop it, and work in
// databases and roles of their own. It ends with the process, or before, when
// TestMain uses Main.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	inst := require(tb)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := start(inst, Options{LogStatements: true})
		if err != nil {
			tb.Fatalf("starting the shared PostgreSQL: %v", err)
		}
		shared.server = s
	}
	return shared.server
}

// Main wraps a package's tests so that the shared server is stopped when they
// have run. Use it as goleak.VerifyTestMain(pgtest.Main(m)) or
// os.Exit(pgtest.Main(m).Run()).
func Main(m interface{ Run() int }) *Tests { return &Tests{m: m} }

// Tests are a package's tests; see Main.
type Tests struct{ m interface{ Run() int } }

// Run runs the tests, stops the shared server and returns the exit code, which
// is 1 at least if the server could not be stopped.
func (t *Tests) Run() int {
	code := t.m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		if err := shared.server.close(); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the shared PostgreSQL: %v\n", err)
			code = max(code, 1)
		}
		shared.server = nil
	}
	return code
}

// NewDatabase makes an empty database on the shared server and returns its DSN
// for Superuser. The database is dropped with tb.
func NewDatabase(tb testing.TB) string {
	tb.Helper()
	return Shared(tb).NewDatabase(tb)
}

// NewDatabase makes an empty database and returns its DSN for Superuser. It is
// dropped with tb, whoever is connected to it.
func (s *Server) NewDatabase(tb testing.TB) string {
	tb.Helper()
	name := "t_" + strings.ToLower(rand.Text()[:16])
	s.Exec(tb, "postgres", "CREATE DATABASE "+name+" TEMPLATE template0")
	tb.Cleanup(func() {
		if !s.Running() {
			return // the server's directory goes as a whole
		}
		if err := s.exec("postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("dropping database %s: %v", name, err)
		}
	})
	return s.DSN(name)
}

// DSN returns the URL of a database over TCP for Superuser.
func (s *Server) DSN(database string) string {
	return s.UserDSN(Superuser, s.Password, database)
}

// UserDSN returns the URL of a database over TCP for a role.
func (s *Server) UserDSN(role, password, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, password),
		Host:     net.JoinHostPort(s.Host, strconv.Itoa(s.Port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Exec runs statements, one after the other and each in its own transaction,
// in a database as Superuser. It fails tb at the first error.
func (s *Server) Exec(tb testing.TB, database string, statements ...string) {
	tb.Helper()
	if err := s.exec(database, statements...); err != nil {
		tb.Fatalf("on the test's PostgreSQL: %v", err)
	}
}

func (s *Server) exec(database string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", database, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, st := range statements {
		if _, err := conn.Exec(ctx, st); err != nil {
			return fmt.Errorf("executing %q: %w", st, err)
		}
	}
	return nil
}

// Log returns the server's log so far.
func (s *Server) Log(tb testing.TB) string {
	tb.Helper()
	b, err := os.ReadFile(s.LogPath)
	if err != nil {
		tb.Fatalf("reading PostgreSQL's log: %v", err)
	}
	return string(b)
}

// PID returns the id of the server's first process, 0 when it is stopped.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.PID()
}

// Running says whether the server's first process is there.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return false
	}
	done, _ := s.process.Exited()
	return !done
}

// Stop stops the server and returns when its first process is gone. After
// Immediate and Kill its backends may need a moment more to notice.
func (s *Server) Stop(tb testing.TB, mode Mode) {
	tb.Helper()
	if err := s.stop(mode); err != nil {
		tb.Fatalf("stopping PostgreSQL: %v", err)
	}
}

// Start starts a stopped server again, with its data, on the same port, and
// returns when it accepts connections.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	deadline := time.Now().Add(startLimit)
	for {
		err := s.launch()
		if err == nil {
			return
		}
		// Backends that outlived a killed server for a moment still hold its
		// shared memory, and a client's socket may still hold its port.
		if errors.Is(err, errNotStopped) || time.Now().After(deadline) {
			tb.Fatalf("starting PostgreSQL again: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

var errNotStopped = errors.New("it is running")

func (s *Server) stop(mode Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	if err := s.process.Stop(syscall.Signal(mode), stopGrace); err != nil {
		return err
	}
	s.process = nil
	return s.watcher.Follow(0)
}

func (s *Server) close() error {
	err := s.stop(Fast)
	err = errors.Join(err, os.RemoveAll(s.dir))
	return errors.Join(err, s.watcher.Close())
}

// launch starts the server's process and waits until it accepts connections.
func (s *Server) launch() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		if done, _ := s.process.Exited(); !done {
			return errNotStopped
		}
	}
	output := filepath.Join(s.dir, "server.log")
	p, err := proc.Start(proc.Spec{
		Path:       filepath.Join(s.inst.bin, "postgres"),
		Args:       append([]string{"-D", s.DataDir, "-p", strconv.Itoa(s.Port)}, s.args...),
		Env:        s.inst.env(s.dir),
		Dir:        s.dir,
		Output:     output,
		Credential: s.inst.credential,
	})
	if err != nil {
		return err
	}
	if err := s.watcher.Follow(p.PID()); err != nil {
		return errors.Join(err, p.Stop(syscall.SIGQUIT, stopGrace))
	}
	// Over its own socket: only this server can answer there.
	dsn := fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=postgres sslmode=disable connect_timeout=5",
		s.SocketDir, s.Port, Superuser, s.Password)
	err = p.Ready(startLimit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		err = errors.Join(err, p.Stop(syscall.SIGQUIT, stopGrace))
		return fmt.Errorf("%w; its log ends: %s", err, strings.TrimSpace(proc.Tail(output, 2000)+proc.Tail(s.LogPath, 2000)))
	}
	s.process = p
	return nil
}

func start(inst install, opts Options) (_ *Server, err error) {
	dir, err := proc.TempDir("pg")
	if err != nil {
		return nil, err
	}
	watcher, err := proc.Watch(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	s := &Server{
		Host: "127.0.0.1", Password: rand.Text(), SocketDir: dir, DataDir: filepath.Join(dir, "data"),
		LogPath: filepath.Join(dir, "server.log"), Version: inst.version,
		inst: inst, dir: dir, watcher: watcher,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if opts.JSONLog {
		s.LogPath = filepath.Join(dir, "log", "postgresql.json")
	}
	s.args = opts.args(dir)
	if err := inst.initdb(s); err != nil {
		return nil, err
	}
	// The port may be taken between the look and the start.
	for range 5 {
		if s.Port, err = proc.FreePort(); err != nil {
			return nil, err
		}
		if err = s.launch(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func (o Options) args(dir string) []string {
	set := map[string]string{
		"listen_addresses":           "127.0.0.1",
		"unix_socket_directories":    dir,
		"max_connections":            strconv.Itoa(o.MaxConnections),
		"shared_buffers":             "32MB",
		"dynamic_shared_memory_type": "mmap", // in the data directory: nothing is left behind
		"log_timezone":               "UTC",
		"timezone":                   "UTC",
		"log_line_prefix":            "%m [%p] %q%u@%d %a ",
	}
	if o.MaxConnections == 0 {
		set["max_connections"] = "200"
	}
	if !o.Durable {
		set["fsync"] = "off"
		set["full_page_writes"] = "off"
	}
	if o.LogStatements {
		set["log_statement"] = "all"
	}
	if o.JSONLog {
		set["logging_collector"] = "on"
		set["log_destination"] = "jsonlog"
		set["log_directory"] = filepath.Join(dir, "log")
		set["log_filename"] = "postgresql.log" // jsonlog makes it .json
		set["log_file_mode"] = "0644"
		set["log_rotation_age"] = "0"
		set["log_rotation_size"] = "0"
	}
	for k, v := range o.Settings {
		set[k] = v
	}
	names := make([]string, 0, len(set))
	for k := range set {
		names = append(names, k)
	}
	sort.Strings(names)
	args := make([]string, 0, 2*len(names))
	for _, k := range names {
		args = append(args, "-c", k+"="+set[k])
	}
	return args
}

// install is a PostgreSQL found on the machine.
type install struct {
	bin        string
	version    string
	credential *syscall.Credential
}

// find looks for PostgreSQL and for whom to run it as, since it refuses to run
// as root.
func find() (install, error) {
	var dirs []string
	if d := os.Getenv("STAUNCH_POSTGRES_BIN"); d != "" {
		dirs = []string{d}
	} else {
		dirs = append(dirs, fmt.Sprintf("/usr/lib/postgresql/%d/bin", MinMajor))
		for _, pattern := range []string{
			"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
		} {
			more, err := filepath.Glob(pattern)
			if err != nil {
				return install{}, fmt.Errorf("looking for PostgreSQL: %w", err)
			}
			dirs = append(dirs, more...)
		}
		if p, err := exec.LookPath("initdb"); err == nil {
			dirs = append(dirs, filepath.Dir(p))
		}
	}
	var tooOld []string
	for _, d := range dirs {
		version, major, err := versionOf(d)
		switch {
		case err != nil:
			continue
		case major < MinMajor:
			tooOld = append(tooOld, d)
			continue
		}
		inst := install{bin: d, version: version}
		inst.credential, err = unprivileged()
		return inst, err
	}
	if len(tooOld) > 0 {
		return install{}, fmt.Errorf("no version %d or later, only %s", MinMajor, strings.Join(tooOld, ", "))
	}
	return install{}, fmt.Errorf("no initdb and postgres in %s", strings.Join(dirs, ", "))
}

func versionOf(bin string) (version string, major int, err error) {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", 0, fmt.Errorf("asking %s for its version: %w", bin, err)
	}
	version = strings.TrimSpace(string(out)) // postgres (PostgreSQL) 15.18 (Debian …)
	_, rest, _ := strings.Cut(version, ") ")
	digits, _, _ := strings.Cut(strings.Fields(rest + " 0")[0], ".")
	major, err = strconv.Atoi(digits)
	if err != nil {
		return "", 0, fmt.Errorf("reading the version %q: %w", version, err)
	}
	return version, major, nil
}

func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(Superuser)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user %s to run it as: %w", Superuser, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the id of user %s: %w", Superuser, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the group of user %s: %w", Superuser, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (i install) env(home string) []string {
	return []string{"PATH=" + i.bin + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "LC_ALL=C", "TZ=UTC"}
}

func (i install) initdb(s *Server) error {
	pwfile := filepath.Join(s.dir, "pwfile")
	if err := os.WriteFile(pwfile, []byte(s.Password+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the superuser's password: %w", err)
	}
	if c := i.credential; c != nil {
		for _, path := range []string{s.dir, pwfile} {
			if err := os.Chown(path, int(c.Uid), int(c.Gid)); err != nil {
				return fmt.Errorf("giving %s to user %s: %w", path, Superuser, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(i.bin, "initdb"),
		"-D", s.DataDir, "-U", Superuser, "--pwfile="+pwfile, "-A", "scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.Env = s.dir, i.env(s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.credential}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Remove(pwfile); err != nil {
		return fmt.Errorf("removing the superuser's password: %w", err)
	}
	return nil
}
