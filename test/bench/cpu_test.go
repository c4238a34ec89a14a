package bench_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// usage is processor time: of this process with all that it started, and of the
// whole machine.
type usage struct{ ours, machine time.Duration }

// tick is the unit of /proc's times on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuUsage reads /proc; where there is none it returns zeros.
func cpuUsage() usage {
	var u usage
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		line, _, _ := strings.Cut(string(b), "\n")
		for i, f := range strings.Fields(line) {
			// user, nice, system, then idle and iowait, then irq, softirq, steal.
			if n, err := strconv.ParseInt(f, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
				u.machine += time.Duration(n) * tick
			}
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u
	}
	parent, spent := map[int]int{}, map[int]time.Duration{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it ended meanwhile
		}
		// The name is in parentheses and may have anything in it.
		_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
		f := strings.Fields(rest)
		if !ok || len(f) < 15 {
			continue
		}
		if parent[pid], err = strconv.Atoi(f[1]); err != nil {
			continue
		}
		for _, i := range []int{11, 12, 13, 14} { // own and waited-for children's
			if n, err := strconv.ParseInt(f[i], 10, 64); err == nil {
				spent[pid] += time.Duration(n) * tick
			}
		}
	}
	for pid := range parent {
		for p, depth := pid, 0; p > 1 && depth < 64; p, depth = parent[p], depth+1 {
			if p == os.Getpid() {
				u.ours += spent[pid]
				break
			}
		}
	}
	return u
}

// cores returns how many processors were busy between two readings, in all and
// with what this process started.
func cores(from, to usage, d time.Duration) (ours, machine float64) {
	return (to.ours - from.ours).Seconds() / d.Seconds(), (to.machine - from.machine).Seconds() / d.Seconds()
}

func TestCPUUsage(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc on this system")
	}
	before, began := cpuUsage(), time.Now()
	for n := 0; time.Since(began) < 200*time.Millisecond; n++ {
		_ = strconv.Itoa(n)
	}
	ours, machine := cores(before, cpuUsage(), time.Since(began))
	if ours <= 0 || machine < ours/2 {
		t.Errorf("busy for 200 ms, and %.2f cores of ours, %.2f of all were counted", ours, machine)
	}
}
