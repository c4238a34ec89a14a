package sigma

// LoadPaths is LoadPath for several files and folders, in their order. A rule
// whose id a rule of an earlier path has is refused, as it is within one path.
func LoadPaths(names []string, opts Options) ([]*Rule, []*RuleError) {
	var rules []*Rule
	var errs []*RuleError
	for _, name := range names {
		r, e := LoadPath(name, opts)
		rules, errs = append(rules, r...), append(errs, e...)
	}
	unique, dups := uniqueIDs(rules)
	return unique, append(errs, dups...)
}
