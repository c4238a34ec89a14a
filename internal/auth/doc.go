// Package auth says who calls and what they may do: tokens, roles, scopes and
// one Authorize.
//
// There is no path without authentication: an Authenticator returns a Principal
// or an error, never an anonymous one. A token is 256 bits from the system's
// random source; only its SHA-256 is stored, which is enough against whoever
// reads the database, since nobody can search 256 bits. Tokens begin with "stn_"
// and end in a checksum, so that secret scanners find them in places where they
// must not be (TokenPattern), and so that a mistyped one costs no look-up.
//
// A revoked token is refused at once on the node that revoked it (Forget, from
// the transaction's OnCommit) and within Options.MaxAge on the others.
package auth
