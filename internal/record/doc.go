// Package record is the arithmetic of the one append-only log: how a record is
// hashed onto the one before, how a stretch of records is checked, and the forms
// in which it leaves the house: exports, checkpoints, and bundles of the evidence
// about one containment. It reads a store's log (Log) and stores nothing.
//
// # What the chain promises
//
// Every writer has a lane. A lane's records are numbered from 1, the first one's
// Prev is empty, every other's is the Hash before it, and Hash is an HMAC-SHA256
// over every other field under a key that is not in the database. So whoever can
// write the database but has no key cannot edit, reorder, insert, drop or
// duplicate a record without a Verifier finding it, except at the end of a lane:
// cutting off the newest records leaves a shorter log that is whole.
//
// That is what checkpoints are for. A Checkpoint has the head of every lane; kept
// in another place (an export is one), it shows that a log was cut or rewritten
// behind it, even by someone who has the key, since the records up to it must
// still have the hashes that it names. What was cut after the newest checkpoint
// that left the house cannot be found: sign one as often as that matters.
//
// # A transparency log
//
// A checkpoint may have been taken by a transparency log (TransparencyLog), from
// which nobody can take it back. Its receipt is kept with it and proves, with the
// log's public key and nothing else, that the log had it when it signed a tree. It
// shows neither what time it was nor that the log shows everybody the same tree.
//
// # Two ways to check an export
//
// With the chain's key everything is recomputed. The key can also forge, so it
// is for the operators themselves, on a machine of theirs, without the database.
//
// Others get the public key (Chain.PublicKey), which forges nothing. Checkpoints
// are signed with Ed25519, and an export's checkpoint covers the digest of all
// its lines, so they can see that the export is, byte for byte, what a holder of
// the key wrote; that its links fit; and, with an earlier checkpoint in hand,
// that nothing before it was rewritten since. They cannot see whether the
// operators themselves wrote what happened.
//
// # Evidence
//
// An Evidence is signed as a whole with the same key, in a domain of its own. Its
// records have their hashes and numbers, so that a log that is exported later can
// be held against it as against a checkpoint.
package record
