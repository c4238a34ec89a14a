// Package crashpoint marks the places at which a crash is hardest to survive:
// the boundaries between what is durable, what was sent, and what was read.
//
// In a build without the tag crashpoints, which is every build that ships, the
// functions here are empty and the compiler leaves nothing of them behind: no
// code, no look at the environment, no name in the binary. Crash-tests build
// with the tag; then
//
//	STAUNCH_CRASH_AT=point:n
//
// has the process kill itself, as kill -9 does, at its n-th pass of the point,
// and STAUNCH_CRASH_TRACE=file appends the name of every point that is passed.
package crashpoint
