// Package proc starts the real servers that tests run against and makes sure
// that they end: by the test's own cleanup, or, when the test process is gone
// without one (a panic in another goroutine, a timeout, kill -9), by a small
// watcher process that outlives it.
//
// A running server costs no goroutine in the test process, so goleak has
// nothing to except. The package works on Unix-like systems.
package proc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const pollEvery = 5 * time.Millisecond

// watchScript reads the watched process's id from its standard input, the last
// one counts. The word end says that the tests have cleaned up. When the input
// ends without it, the test process is gone: the script ends the process group
// and removes the directory, its first argument.
const watchScript = `
pid=
while read -r word arg; do
	case $word in
	pid) pid=$arg ;;
	end) exit 0 ;;
	esac
done
if [ -n "$pid" ] && [ "$pid" != 0 ]; then
	kill -s QUIT -- "-$pid"
	n=0
	while kill -s 0 -- "-$pid" && [ $n -lt 50 ]; do
		sleep 0.1
		n=$((n + 1))
	done
	kill -s KILL -- "-$pid"
fi
rm -rf -- "$1"
`

// Spec says what to start.
type Spec struct {
	Path   string   // the program, absolute
	Args   []string // its arguments, without the program's name
	Env    []string // its whole environment
	Dir    string   // its working directory
	Output string   // the file that its output is appended to
	// Credential is whom it runs as; nil is the caller.
	Credential *syscall.Credential
}

// Process is a started program, the leader of its own process group.
type Process struct {
	pid int

	mu     sync.Mutex
	exited bool
	status syscall.WaitStatus
}

// Start starts the program and returns at once.
func Start(spec Spec) (*Process, error) {
	out, err := os.OpenFile(spec.Output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the output of %s: %w", spec.Path, err)
	}
	defer func() { _ = out.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Path, err)
	}
	defer func() { _ = null.Close() }()
	p, err := os.StartProcess(spec.Path, append([]string{spec.Path}, spec.Args...), &os.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Credential: spec.Credential},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Path, err)
	}
	pid := p.Pid
	if err := p.Release(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Path, err)
	}
	return &Process{pid: pid}, nil
}

// PID returns the process's id, which is its group's id too.
func (p *Process) PID() int { return p.pid }

// Exited says whether the process has ended, and how.
func (p *Process) Exited() (bool, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exited {
		p.poll()
	}
	switch {
	case !p.exited:
		return false, "running"
	case p.status.Signaled():
		return true, "ended by " + p.status.Signal().String()
	default:
		return true, "exit code " + strconv.Itoa(p.status.ExitStatus())
	}
}

// poll is called with mu held.
func (p *Process) poll() {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(p.pid, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || got == p.pid:
			p.exited, p.status = true, ws
		}
		return
	}
}

// Signal sends sig to the process alone. An ended process is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exited {
		return nil // its id may be another's by now
	}
	if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("sending %s to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// Wait waits at most limit for the process to end and says whether it did.
func (p *Process) Wait(limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		if done, _ := p.Exited(); done {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollEvery)
	}
}

// Stop sends sig, waits at most grace, and kills the whole group if that was
// not enough. It returns when the process is gone.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	if p.Wait(grace) {
		return nil
	}
	p.mu.Lock()
	if !p.exited {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	p.mu.Unlock()
	if !p.Wait(10 * time.Second) {
		return fmt.Errorf("stopping process %d: it outlived SIGKILL by ten seconds", p.pid)
	}
	return nil
}

// Ready calls probe until it returns nil. It gives up when limit has passed or
// when the process has ended, whichever is first, with the last answer.
func (p *Process) Ready(limit time.Duration, probe func() error) error {
	deadline := time.Now().Add(limit)
	for {
		if done, how := p.Exited(); done {
			return fmt.Errorf("it ended before it was ready: %s", how)
		}
		err := probe()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %s: %w", limit, err)
		}
		time.Sleep(4 * pollEvery)
	}
}

// Watcher ends a process and removes a directory when the test process is gone
// without having done so.
type Watcher struct {
	mu  sync.Mutex
	in  *os.File
	pid int
}

// Watch starts a watcher for dir. Call Follow for each process started there
// and Close once dir is removed.
func Watch(dir string) (*Watcher, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watching over %s: %w", dir, err)
	}
	defer func() { _ = r.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watching over %s: %w", dir, err)
	}
	defer func() { _ = null.Close() }()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", watchScript, "sh", dir}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		Files: []*os.File{r, null, null},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watching over %s: %w", dir, err)
	}
	pid := p.Pid
	if err := p.Release(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watching over %s: %w", dir, err)
	}
	return &Watcher{in: w, pid: pid}, nil
}

// Follow makes pid the process that the watcher ends; 0 is none.
func (w *Watcher) Follow(pid int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := fmt.Fprintf(w.in, "pid %d\n", pid); err != nil {
		return fmt.Errorf("watching over process %d: %w", pid, err)
	}
	return nil
}

// Close ends the watcher and leaves everything as it is.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.in == nil {
		return nil
	}
	_, err := w.in.WriteString("end\n")
	err = errors.Join(err, w.in.Close())
	w.in = nil
	for {
		_, werr := syscall.Wait4(w.pid, nil, 0, nil)
		if !errors.Is(werr, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("ending the watcher: %w", err)
	}
	return nil
}

// FreePort returns a TCP port of the loopback address that was free a moment
// ago. Another process may take it first: try again with another one then.
func FreePort() (int, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	return port, nil
}

// StartOnPorts starts what spec makes of n free ports of the loopback address and
// waits at most limit until ready returns nil. Ports may be taken between the look
// and the start: where the output says so, it tries others, five times in all. The
// watcher follows the process; nothing runs where there is an error.
func StartOnPorts(n int, watcher *Watcher, limit time.Duration, spec func(ports []string) Spec, ready func() error) (*Process, error) {
	const grace = 20 * time.Second
	for range 5 {
		ports := make([]string, n)
		for i := range ports {
			port, err := FreePort()
			if err != nil {
				return nil, err
			}
			ports[i] = strconv.Itoa(port)
		}
		sp := spec(ports)
		p, err := Start(sp)
		if err != nil {
			return nil, err
		}
		if err := watcher.Follow(p.PID()); err != nil {
			return nil, errors.Join(err, p.Stop(syscall.SIGTERM, grace))
		}
		if err = p.Ready(limit, ready); err == nil {
			return p, nil
		}
		err = errors.Join(err, p.Stop(syscall.SIGTERM, grace))
		if !strings.Contains(Tail(sp.Output, 4000), "address already in use") {
			return nil, fmt.Errorf("%w; its output ends: %s", err, Tail(sp.Output, 2000))
		}
	}
	return nil, errors.New("free ports were taken by others five times")
}

// TempDir makes a directory with a short path, since the path of a Unix socket
// may be about a hundred bytes long and that of testing's TempDir often is.
// Whoever calls it removes it.
func TempDir(name string) (string, error) {
	base := "/tmp"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "staunch-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("making a directory for %s: %w", name, err)
	}
	return dir, nil
}

// Tail returns the last part of a log file, at most max bytes of it, or what
// went wrong in reading it, for use in a message.
func Tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > limit {
		if _, err := f.Seek(-limit, 2); err != nil {
			return err.Error()
		}
	}
	buf := make([]byte, limit)
	n, _ := f.Read(buf)
	return string(buf[:n])
}
