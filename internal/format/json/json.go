// Package json reads JSON records as they are: every rule is evaluated on
// them, and as OCSF they are Base Events with the record under unmapped.
package json

import (
	_ "embed"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

//go:embed mapping.yaml
var source []byte

// New returns the format json.
func New() (format.Format, error) {
	return mapping.Compile(source, "internal/format/json/mapping.yaml", mapping.Options{})
}
