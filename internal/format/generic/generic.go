// Package generic makes a format of a user's own mapping file.
package generic

import (
	"fmt"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

// New compiles the mapping, which was read from path, into a format called
// name; an empty name leaves the mapping's own. The error joins a
// *staunch.Problem with path:line for each thing that is wrong.
func New(name string, source []byte, path string) (format.Format, error) {
	f, err := mapping.Compile(source, path, mapping.Options{})
	if err != nil {
		return nil, fmt.Errorf("compiling the mapping: %w", err)
	}
	if name == "" || name == f.Name() {
		return f, nil
	}
	return renamed{f, name}, nil
}

// renamed is a format under another name.
type renamed struct {
	*mapping.Format
	name string
}

var _ format.Format = renamed{}

// Name returns the name that the format was given.
func (r renamed) Name() string { return r.name }
