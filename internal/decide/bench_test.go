package decide_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
)

// estate returns n policies: most of them for one owner or one rule, with an
// expression, and one that everything falls through to.
func estate(t testing.TB, n int) *decide.Set {
	var b strings.Builder
	for i := range n - 1 {
		match := fmt.Sprintf("{owner: team-%d, environment: [prod, stage]}", i)
		switch i % 4 {
		case 1:
			match = fmt.Sprintf("{rule: [rule-%d, rule-%d], identity_kind: service}", i, i+1)
		case 2:
			match = fmt.Sprintf("{realm: realm-%d, tier: {max: 2}}", i)
		case 3:
			match = fmt.Sprintf("{source: source-%d, tolerance: [normal, staged]}", i)
		}
		fmt.Fprintf(&b, "  - {id: p%d, priority: %d, mode: enforce, match: %s, when: 'suspicion.confidence > 0.5 && identity.managed', then: {tier: isolate}}\n", i, i%7, match)
	}
	b.WriteString("  - {id: last, priority: -1, mode: enforce, when: 'identity.tier < 4 && suspicion.signals > 0', then: {tiers: [{at: 0.3, tier: restrict}, {at: 0.6, tier: isolate}, {at: 0.85, tier: revoke}]}}\n")
	return parse(t, b.String())
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			set := estate(b, n)
			in := input(b, ident(func(id *staunch.Identity) { id.Owner = "team-4" }), accuse("rule-5", 0.9), accuse("rule-9", 0.5))
			in.Identity.Managed = false // so that candidates are tried and passed over
			if out := set.Decide(in); out.Policy != "last" || out.Tier != staunch.TierIsolate {
				b.Fatalf("decided %+v", out)
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Decide(in)
			}
		})
	}
}

func BenchmarkAssess(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("signals=%d", n), func(b *testing.B) {
			var in []decide.Evidence
			for i := range n {
				e := accuse(fmt.Sprint(i%7), 0.5)
				e.Signal.ID = fmt.Sprint(i)
				in = append(in, e)
			}
			b.ReportAllocs()
			for b.Loop() {
				decide.Params{}.Assess(cred("k"), in)
			}
		})
	}
}

// The index finds exactly the policies whose match holds, however many there
// are: the same outcome as trying them one by one.
func TestIndexIsExact(t *testing.T) {
	for _, n := range []int{2, 63, 64, 65, 300, 2500} {
		set := estate(t, n)
		for i := 0; i < 60; i += 7 {
			in := input(t, ident(func(id *staunch.Identity) { id.Owner = fmt.Sprintf("team-%d", i) }), accuse(fmt.Sprintf("rule-%d", i+1), 0.9))
			want := ""
			for _, tr := range set.Explain(in) {
				if tr.Chosen {
					want = tr.Policy
				}
			}
			if got := set.Decide(in).Policy; got != want || want == "" {
				t.Fatalf("%d policies: the index finds %q, going through them %q", n, got, want)
			}
		}
	}
}
