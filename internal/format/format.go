// Package format is the contract by which a platform's records are read: split,
// keyed, matched and mapped. A format decodes a record once into a
// jsondoc.Doc, which key extraction, the Sigma matcher and the mapping share.
//
// Keys is cheap and runs on every record; Map runs only for records that are
// kept. Formats keep no state and are safe for concurrent use. They pass
// formattest.
package format

import (
	"io"
	"net/http"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Env is what a format is told of the source that a record came from.
type Env struct {
	// Source is the source instance's name.
	Source string
	// Realm is the realm that the record's own names belong to.
	Realm string
	// Received is when the record came in.
	Received staunch.Time
}

// Logsource names the Sigma log source of a record. All is set by formats for
// which every rule is evaluated, whatever its log source.
type Logsource struct {
	Product, Category, Service string
	All                        bool
}

// Format reads one kind of record.
type Format interface {
	// Name is the format's name in configuration ("aws.cloudtrail").
	Name() string
	// Logsource returns the Sigma log source of the record.
	Logsource(doc *jsondoc.Doc) Logsource
	// Split opens the vendor's envelopes: it yields the records inside raw, or
	// raw itself. raw is valid for the call alone unless yield copies it. An
	// error is a *staunch.Problem; records yielded before it stand.
	Split(doc *jsondoc.Doc, yield func(raw []byte) error) error
	// Keys extracts the record's keys. The error is a *staunch.Problem that
	// names the field; such a record is rejected or parked.
	Keys(doc *jsondoc.Doc, env Env) (staunch.Keys, error)
	// Secrets returns the values in the record that must not be kept in plain,
	// in ascending order of Start, not overlapping.
	Secrets(doc *jsondoc.Doc, env Env) []SecretValue
	// Map maps the record to OCSF and states the facts and findings in it. The
	// error is a *staunch.Problem that names the field.
	Map(doc *jsondoc.Doc, keys staunch.Keys, env Env) (Mapped, error)
	// Accused returns the kinds of refs that a rule of this format accuses when
	// it does not say, the first that the record has.
	Accused() []staunch.Kind
}

// SecretValue is a secret in a record.
type SecretValue struct {
	// Start and End bound the JSON text of the value in the record, its quotes
	// included.
	Start, End int
	Value      staunch.Secret
	// Ref is the credential that the value is, by its digest; zero where it is
	// only to be redacted.
	Ref staunch.Ref
	// Keep says that a revocation will need the value: it is sealed, not only
	// redacted.
	Keep bool
}

// Mapped is what a record means.
type Mapped struct {
	// OCSF is the event as JSON, valid against the schema, without raw data.
	OCSF []byte
	// Facts have no ids, learned times, sources or events yet; core sets them.
	Facts []staunch.Fact
	// Findings are accusations that the record itself makes, when it is an
	// outside detector's finding.
	Findings []Finding
}

// Finding is an outside detector's accusation.
type Finding struct {
	// ID is the detector's own id of the finding or its type.
	ID, Title  string
	Accused    []staunch.Ref
	Confidence float64
	Techniques []string
	Evidence   string
}

// PushVerifier is a format whose vendor signs or challenges pushes.
type PushVerifier interface {
	// Challenge answers a vendor's verification request. handled is false when r
	// is none. It is called only for requests that carry the source's token.
	Challenge(w http.ResponseWriter, r *http.Request) (handled bool)
}

// Namer is a format in whose records one actor goes by several names.
type Namer interface {
	// Same returns, by kind, the schemes whose refs name one and the same thing
	// when they stand together among a record's actor refs.
	Same() map[staunch.Kind][]string
}

// Screener is a format that can say more cheaply than by Keys whether a record
// states a fact: most records state none, match nothing and concern nobody.
type Screener interface {
	// Screen returns the error that Keys would, and the Facts of its answer.
	Screen(doc *jsondoc.Doc, env Env) (facts bool, err error)
}

// Finder is a format whose records may be findings of an outside detector.
type Finder interface {
	// Finds reports cheaply whether Map would return findings for the record.
	Finds(doc *jsondoc.Doc) bool
}

// Streamer is a format whose records do not come as JSON values or lines of
// them; it splits the byte stream itself.
type Streamer interface {
	Stream(r io.Reader, l jsondoc.Limits) (RecordReader, error)
}

// RecordReader yields records with their numbers.
type RecordReader interface {
	Next() (jsondoc.Record, error)
}
