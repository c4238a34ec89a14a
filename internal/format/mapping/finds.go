package mapping

import (
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

var _ format.Finder = (*Format)(nil)

// Finds reports whether one of the mapping's findings is about the record.
func (f *Format) Finds(doc *jsondoc.Doc) bool {
	if len(f.findings) == 0 || doc.Root().Kind() != jsondoc.Object {
		return false
	}
	r := f.begin(doc, format.Env{})
	defer f.end(r)
	for _, s := range f.findings {
		if s.when == nil || r.holds(s.when) {
			return true
		}
	}
	return false
}
