// Package cloudtrail reads AWS CloudTrail's records. What they mean is in
// mapping.yaml, and the names it gives in README.md.
package cloudtrail

import (
	_ "embed"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

//go:embed mapping.yaml
var source []byte

// New returns the format aws.cloudtrail.
func New() (format.Format, error) {
	return mapping.Compile(source, "internal/format/cloudtrail/mapping.yaml", mapping.Options{})
}
