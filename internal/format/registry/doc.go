// Package registry lists the formats. registry.go is generated from the folders
// below internal/format: a new format is a folder with a New function and a run
// of make generate.
package registry

//go:generate go run ../../gen/registry -contract .. -func New -type Format -list Formats
