package sim_test

import (
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format/mapping"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/policies"
)

var (
	seeds = flag.Int("seeds", 40, "how many stories to play")
	first = flag.Uint64("seed", 1, "the first story's seed")
	tell  = flag.Bool("tell", false, "tell the first story")
	most  = flag.Int("failures", 5, "end after so many stories that went wrong")
)

func TestMain(m *testing.M) {
	// A story lives in a few megabytes and is over soon: to collect less often is
	// what memory is for here.
	debug.SetGCPercent(1600)
	goleak.VerifyTestMain(m)
}

const mappingFile = `
v: 1
name: sim
title: The platform in memory
product: {name: Sim, vendor_name: staunch}
logsource: {product: sim}
accused: [session, account]
refs:
  session: {kind: session, scheme: id, from: session}
  issued: {kind: session, scheme: id, from: issued}
  user: {kind: account, scheme: name, from: user}
keys:
  id: id
  time: {from: time}
  operation: op
  source_ip: ip
  outcome: success
  actor: [session, user]
facts:
  - {type: session_started, when: {op: login}, subject: session, of: user}
  - {type: session_started, when: {op: issue}, subject: issued, of: user, by: session}
ocsf:
  unmapped: all
  common:
    metadata.log_name: =sim
`

func rules() string {
	var b strings.Builder
	for i, r := range []struct{ op, level string }{
		{"low", "low"}, {"medium", "medium"}, {"other", "medium"}, {"high", "high"}, {"critical", "critical"},
	} {
		if i > 0 {
			b.WriteString("---\n")
		}
		fmt.Fprintf(&b, "title: %[1]s\nid: %[1]s\nlevel: %[2]s\nlogsource: {product: sim}\ndetection: {s: {op: %[1]s}, condition: s}\n", r.op, r.level)
	}
	return b.String()
}

func prepare(t *testing.T) *fixed {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rs, errs := sigma.Parse("rules.yml", []byte(rules()), sigma.Options{})
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	set, err := sigma.Compile(rs)
	must(err)
	format, err := mapping.Compile([]byte(mappingFile), "sim.yaml", mapping.Options{})
	must(err)
	files, err := decide.ReadFiles(policies.FS)
	must(err)
	policy, err := decide.Parse(files)
	must(err)
	chain, err := record.NewChain(make([]byte, 32))
	must(err)
	rails, err := decide.NewGuardrails(decide.Limits{
		Global: decide.Places{Limit: 5, Keep: 1}, Source: decide.Places{Limit: 4, Keep: 1}, Owner: decide.Places{Limit: 4, Keep: 1},
		Environment: decide.Places{Limit: 4, Keep: 1}, TripSource: 4, TripRule: 3, TripConnector: 6, TripGlobal: 8,
		MinHealthy: 50, Protected: []string{"account:" + realm + ":name:" + vip + "*"},
	})
	must(err)
	off := decide.Places{Limit: -1}
	open, err := decide.NewGuardrails(decide.Limits{
		Global: off, Source: off, Owner: off, Environment: off, HourlyGlobal: -1, HourlySource: -1,
		TripSource: -1, TripRule: -1, TripConnector: -1, TripGlobal: -1, MinHealthy: -1,
		Restrict: off, Isolate: off, Revoke: off, Identities: off, CanaryAfter: -1, GroupShare: -1,
	})
	must(err)
	return &fixed{
		chain: chain, rails: rails, open: open, tokens: makeTokens(),
		bundle: &pipeline.Bundle{Hash: "sha256:sim", Rules: set, Policy: policy, Groups: inventory.CountGroups(identities())},
		source: &pipeline.Source{
			Name: "src", Realm: realm, Format: format, Ceiling: staunch.TierRevoke,
			Skew: staunch.Duration(5 * time.Minute), Lateness: staunch.Duration(time.Hour),
		},
	}
}

// TestStories plays stories from one seed after another.
func TestStories(t *testing.T) {
	f := prepare(t)
	var next, done, failed, actions atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for failed.Load() < int64(*most) {
				n := next.Add(1) - 1
				if n >= int64(*seeds) {
					return
				}
				var told func(string)
				if *tell && n == 0 {
					told = func(line string) { fmt.Println(line) }
				}
				seed := *first + uint64(n)
				problems, acted := play(f, seed, encoded(seed), told)
				actions.Add(int64(acted))
				if len(problems) > 0 {
					failed.Add(1)
					mu.Lock()
					t.Errorf("story %d: %s", seed, strings.Join(problems, "\n    "))
					mu.Unlock()
				}
				if d := done.Add(1); d%5000 == 0 {
					fmt.Fprintf(os.Stderr, "%d stories, %d went wrong, %s\n", d, failed.Load(), time.Since(began).Round(time.Second))
				}
			}
		})
	}
	wg.Wait()
	t.Logf("stories %d to %d, %d actions, %d went wrong, in %s", *first, *first+uint64(done.Load())-1, actions.Load(), failed.Load(), time.Since(began).Round(time.Millisecond))
}

// encoded says whether a story's rows are encoded, as a database's are, which
// takes most of a story's time. TestSame holds that it makes no difference.
func encoded(seed uint64) bool { return seed%32 == 0 }

// TestSame plays stories twice, once with encoded rows: what happens in them
// depends on the seed alone.
func TestSame(t *testing.T) {
	f := prepare(t)
	for seed := *first; seed < *first+5; seed++ {
		var sums [2]uint64
		var lines [2][]string
		for i := range sums {
			h := fnv.New64a()
			play(f, seed, i == 0, func(line string) {
				_, _ = h.Write([]byte(line))
				lines[i] = append(lines[i], line)
			})
			sums[i] = h.Sum64()
		}
		if sums[0] != sums[1] {
			for i, line := range lines[0] {
				if i >= len(lines[1]) || line != lines[1][i] {
					t.Errorf("story %d differs at line %d:\n%s\n%s", seed, i+1, line, strings.Join(lines[1][min(i, len(lines[1])):min(i+1, len(lines[1]))], ""))
					break
				}
			}
		}
	}
}
