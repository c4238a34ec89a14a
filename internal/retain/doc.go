// Package retain deletes what is older than it has to be kept, beside the work of
// a node and in steps that the work hardly notices.
//
// A round walks each kind of rows from the oldest on, reads a few hundred, and
// deletes those that are old and that nothing needs any more, each batch in a
// transaction of its own, so that a crash loses nothing but the rest of a batch's
// work. Of several nodes one sweeps, by a lease.
//
// # What is kept whatever its age
//
// What a case rests on, open or kept: its decisions, their signals, the events of
// these. What its subject did, while it is open. What a judgement made from now on
// may look at: no age is shorter than the time over which signals count, and events
// outlast the longest window of a correlation with the lateness that its source is
// allowed. Facts while a signal is found under their subject, something else came
// from it, or an open case has it below its subject.
//
// What cases rest on is read before anything is deleted. A case that opens later
// rests on signals that count, which are too young to be deleted by the ages that
// were fixed before; that is why the ages are fixed first. Where the database is
// over its size, events are deleted that are younger than that: then the cases are
// read again every few seconds.
//
// A clock that leapt ahead makes nothing old before it has run on for a day.
package retain
