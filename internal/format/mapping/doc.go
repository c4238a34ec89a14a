// Package mapping provides the language in which formats are written as data:
// a mapping.yaml says where a platform's records keep their id, time, outcome
// and names, which of their values are secrets, what facts and findings they
// state, and how they read as OCSF.
//
// [Compile] decodes a mapping strictly, checks every assignment against the
// schema table and yields a [Format] that runs on a jsondoc.Doc. README.md in
// this folder is the language's reference.
//
// Two things hold whatever a record contains. First, what Map puts out is valid
// OCSF: a value of the wrong type is not assigned and stays in `unmapped`, an
// object that lacks what the schema requires is left out, and an event whose
// class cannot be filled becomes the next class that fits, at last OCSF's Base
// Event. Second, a secret never appears in keys, facts, findings or OCSF: it
// reads as its digest where the mapping says that it is a credential, else as
// "***".
package mapping
