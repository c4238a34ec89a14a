// Package vault reads the lines that a HashiCorp Vault audit device writes.
// What they mean is in mapping.yaml, and the names it gives in README.md.
package vault

import (
	_ "embed"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

//go:embed mapping.yaml
var source []byte

// New returns the format hashicorp.vault.
func New() (format.Format, error) {
	return mapping.Compile(source, "internal/format/vault/mapping.yaml", mapping.Options{})
}
