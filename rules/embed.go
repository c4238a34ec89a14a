// Package rules carries the rules that staunch ships. Beside each stands its
// test, which is not in the binary. The configuration names the pack
// "builtin".
package rules

import "embed"

// FS has the rule files, a folder a product.
//
//go:embed */*.yml
var FS embed.FS
