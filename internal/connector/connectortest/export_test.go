package connectortest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// Failures runs the suite and returns what it complains of, by check.
func Failures(t *testing.T, h Harness) map[string][]string {
	out := map[string][]string{}
	run := func(name string, f func(tb testing.TB)) {
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer r.finish()
			f(r)
		}()
		<-done
		if len(r.said) > 0 {
			out[name] = r.said
		}
	}
	var checks []check
	run("harness", func(tb testing.TB) { checks = newSuite(tb, h).checks() })
	for _, c := range checks {
		run(c.name, c.run)
	}
	return out
}

// recorder is a testing.TB that notes failures and does not fail.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	said     []string
	cleanups []func()
}

func (r *recorder) Helper() {}
func (r *recorder) Cleanup(f func()) {
	r.cleanups = append(r.cleanups, f)
}
func (r *recorder) say(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, s)
}
func (r *recorder) Error(a ...any)            { r.say(fmt.Sprint(a...)) }
func (r *recorder) Errorf(f string, a ...any) { r.say(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(a ...any)            { r.say(fmt.Sprint(a...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.say(fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) Skipf(string, ...any)      { runtime.Goexit() }
func (r *recorder) finish() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}
