// Package api is the way in over HTTP: the REST interface under /v1 with its
// OpenAPI 3.1 description, OpenID AuthZEN under /access/v1, and the endpoints
// that watch the process.
//
// # Who may
//
// Every endpoint but /healthz and /readyz asks for a bearer token before it
// reads anything else of a request. A route cannot be registered without the
// auth.Verb that it needs, so there is none that forgot to ask. The role is
// checked first; then, inside the transaction that reads or changes the object,
// auth.Authorize is asked about that object, so that a token limited to some
// realms, owners or environments sees and touches nothing else. Listings leave
// out what the token may not see.
//
// # Answers
//
// JSON carries "v". Errors are RFC 9457 problem details with a code for
// programs, a message and a hint for people, and the place in their input where
// there is one; the cause of a failure inside goes to the log alone, under the
// request id that the answer carries. Bad input is 400, whatever found it.
//
// # What changes something
//
// Every change leaves a record with the principal's name in the transaction
// that makes it. A request whose commit's outcome is not known is answered with
// 503 and the code "commit_unknown"; all changes may be sent again.
//
// The rooms that do the work are given as small interfaces in Options; this
// package knows the contracts alone.
package api
