package sigma

import (
	"fmt"
	"strings"
)

const maxDeciding = 20

// Deciding returns the items that made the rule match or not, a line each.
func (ex *Explanation) Deciding() []string {
	var out []string
	// want is the result that speaks for the rule's: a not turns it round.
	var walk func(n *ExplainNode, selection string, want bool)
	walk = func(n *ExplainNode, selection string, want bool) {
		if n == nil || len(out) >= maxDeciding {
			return
		}
		if n.Selection != "" {
			selection = n.Selection
		}
		if n.Op == "item" && n.Result == want {
			found := "absent"
			if n.Present {
				found = strings.Join(n.Found, ", ")
			}
			field := n.Field
			if field == "" {
				field = "keyword"
			}
			if n.Modifier != "" {
				field += "|" + n.Modifier
			}
			verdict := "does not hold"
			if n.Result {
				verdict = "holds"
			}
			out = append(out, fmt.Sprintf("%s: %s wants %s, found %s: %s (%s:%d)", selection, field, strings.Join(n.Wanted, " or "), found, verdict, ex.Path, n.Line))
		}
		for _, c := range n.Children {
			walk(c, selection, want != (n.Op == "not"))
		}
	}
	walk(ex.Tree, "", ex.Matched)
	return out
}
