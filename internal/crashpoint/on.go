//go:build crashpoints

package crashpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Enabled says whether this build can crash itself.
const Enabled = true

// plan is what the environment asks for, and how far it has come.
type plan struct {
	mu    sync.Mutex
	point string
	left  int // passes until the crash
	trace *os.File
}

// asked is read once. It is state of the process by its nature: a crash is too.
var asked = sync.OnceValue(func() *plan {
	p := new(plan)
	if at := os.Getenv("STAUNCH_CRASH_AT"); at != "" {
		i := strings.LastIndexByte(at, ':')
		n, err := strconv.Atoi(at[i+1:])
		if i <= 0 || err != nil || n < 1 {
			panic(fmt.Sprintf("STAUNCH_CRASH_AT=%q is not point:n", at)) // a test that crashes nowhere must not pass
		}
		p.point, p.left = at[:i], n
	}
	if path := os.Getenv("STAUNCH_CRASH_TRACE"); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(fmt.Sprintf("STAUNCH_CRASH_TRACE: %v", err))
		}
		p.trace = f
	}
	return p
})

// Here marks a point by a name.
func Here(point string) {
	p := asked()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trace != nil {
		if _, err := p.trace.WriteString(point + "\n"); err != nil {
			panic(fmt.Sprintf("STAUNCH_CRASH_TRACE: %v", err))
		}
	}
	if p.left == 0 || point != p.point {
		return
	}
	if p.left--; p.left > 0 {
		return
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal is on its way; nothing more happens here
}

// At marks a point that is passed for several things: its name is the point's,
// a slash, and what it is passed for.
func At(point, of string) { Here(point + "/" + of) }
