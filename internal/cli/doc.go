// Package cli is the command line: one file a command. Commands that touch what
// a server keeps go through its API (package api/client); the others run here.
//
// # Adding a command
//
// Write a file with
//
//	func newXCmd(g *globals) *cobra.Command
//
// and list it in newRoot, in its group. RunE returns an error; [Main] prints it
// as "error: …" with "hint: …" below and turns it into one of the documented
// exit codes (see [ExitCodes]). What a command answers goes through
// globals.print, which knows -o table, json and yaml; anything else that people
// read goes to globals.stderr. Nothing here reads os.Args, os.Stdout or the
// environment by itself, so that tests run commands side by side.
package cli

//go:generate go run ./docs ../../docs/reference
