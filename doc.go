// Package staunch holds the words of the containment engine: refs, events,
// facts, signals, decisions, containments, plans, steps, holds and records,
// with the ids that keep them stable under redelivery, re-ordering and later
// learning.
//
// The package imports the standard library alone and knows nothing of stores,
// platforms or transports. Everything that is persisted or printed carries a
// version (`v`), and a reader refuses a version that it does not know.
package staunch

// Version is the version that this release writes into everything it stores
// or prints.
const Version = 1
