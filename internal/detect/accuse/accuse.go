// Package accuse finds whom a rule is about.
package accuse

import (
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Record is a record that a rule matched, with what its format made of it.
type Record struct {
	Format  format.Format
	Realm   string
	Doc     *jsondoc.Doc
	Keys    staunch.Keys
	Secrets []format.SecretValue
}

// Refs returns what a rule accuses: of each kind that it lists the first ref
// among the record's actor, or the values of the fields that it names. A rule
// that lists nothing accuses the first kind of the format's that the record has.
func Refs(list []sigma.Accusation, rec Record) []staunch.Ref {
	var refs []staunch.Ref
	for _, a := range list {
		if a.Field == "" {
			refs = append(refs, OfKind(rec.Keys.Actor, staunch.Kind(a.Kind))...)
			continue
		}
		v := rec.Doc.Root().At(jsondoc.ParsePath(a.Field)).String()
		if v == "" {
			continue
		}
		ref := staunch.Ref{Kind: staunch.Kind(a.Kind), Realm: rec.Realm, Scheme: a.Scheme, Value: v}
		// A secret stands in refs by its digest alone.
		if i := slices.IndexFunc(rec.Secrets, func(s format.SecretValue) bool { return s.Value.Reveal() == v }); i >= 0 {
			if ref.Value = rec.Secrets[i].Value.Digest(); rec.Secrets[i].Ref.Kind == ref.Kind {
				ref = rec.Secrets[i].Ref
			}
		}
		refs = append(refs, ref)
	}
	if len(list) == 0 {
		for _, k := range rec.Format.Accused() {
			if refs = OfKind(rec.Keys.Actor, k); len(refs) > 0 {
				break
			}
		}
	}
	return refs
}

// Correlated returns what a correlation accuses that groups by refs of the kind
// narrowest, "" for none: where it lists nothing, that kind of the record's actor,
// and otherwise what a rule would.
func Correlated(list []sigma.Accusation, narrowest staunch.Kind, rec Record) []staunch.Ref {
	if len(list) == 0 && narrowest != "" {
		if refs := OfKind(rec.Keys.Actor, narrowest); len(refs) > 0 {
			return refs
		}
	}
	return Refs(list, rec)
}

// Hidden returns what stands for a text of the record: its digest where it is one
// of the secrets, or the text itself.
func Hidden(secrets []format.SecretValue) func(string) string {
	return func(v string) string {
		for _, s := range secrets {
			if s.Value.Reveal() == v {
				return s.Value.Digest()
			}
		}
		return v
	}
}

// OfKind returns the refs of the kind. Several schemes may name one thing, so
// the first is accused; the inventory knows the others.
func OfKind(actor []staunch.Ref, k staunch.Kind) []staunch.Ref {
	for _, a := range actor {
		if a.Kind == k {
			return []staunch.Ref{a}
		}
	}
	return nil
}
