package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/generic"
)

// GenericName is the name under which a source has a mapping file of its own.
const GenericName = "generic"

// made has the formats, compiled once: a mapping is part of the binary, and a format
// serves any number of sources at once.
var made = sync.OnceValues(Formats)

// New returns the format called name. The error is a staunch.ErrNotFound that
// lists the formats there are, or what is wrong with the format's own mapping.
func New(name string) (format.Format, error) {
	all, err := made()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(f format.Format) bool { return f.Name() == name })
	if i < 0 {
		return nil, fmt.Errorf("format %q: %w (there are %s, and generic with a mapping file)", name, staunch.ErrNotFound, strings.Join(names(all), ", "))
	}
	return all[i], nil
}

// Names returns the formats' names, sorted, without generic.
func Names() ([]string, error) {
	all, err := made()
	if err != nil {
		return nil, err
	}
	return names(all), nil
}

func names(all []format.Format) []string {
	out := make([]string, len(all))
	for i, f := range all {
		out[i] = f.Name()
	}
	slices.Sort(out)
	return out
}

// Generic returns the format that the mapping, which was read from path, makes;
// an empty name leaves the mapping's own.
func Generic(name string, mapping []byte, path string) (format.Format, error) {
	return generic.New(name, mapping, path)
}
