// Package policies carries the default policies and playbooks, with the tests
// beside them, in the binary.
package policies

import "embed"

// FS has the policy files, and their tests (*_test.yaml).
//
//go:embed *.yaml
var FS embed.FS
