// Package demo is a small estate that lives in one process: an OAuth 2
// authorization server, an API that introspects every call, another that asks
// AuthZEN, a rightful workload, and a thief with its token. It exists so that a
// newcomer sees a stolen token stop working; everything in it is real but the
// victims.
//
// The estate knows the engine by its HTTP API alone. What its APIs see is
// written to their access logs, and the log lines are posted as records: the
// engine is told of records, never of signals.
package demo
