// Package registry lists the connectors. It is generated from the folders below
// internal/connector: a new platform is a folder with a Factory function and a
// run of make generate.
package registry

//go:generate go run ../../gen/registry -contract .. -func Factory -type Factory -list Factories
