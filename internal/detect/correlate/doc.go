// Package correlate compiles Sigma's correlation documents (specification 2.1)
// and staunch's own detectors in the same shape, and says what holds over many
// events.
//
// # Windows are rows
//
// An event that matched a rule to which a correlation refers contributes a row
// (store.Contribution): the series (correlation and group), the event's time and
// id, which rule, and the value that counts. The rows are committed with the
// event. What holds is a pure function of a series' rows, so that restart,
// redelivery and other nodes change nothing: each event is one row, however often
// and wherever it comes in. Memory only spares looking at windows that cannot
// hold yet.
//
// A window ends at a contribution and reaches back by the timespan, both ends
// included. The correlation holds at that contribution when its window meets the
// condition. An event that arrives out of order is put where its time says, and
// the windows after it are judged again. One whose time is out of its source's
// bounds (late, ahead, or without a time) contributes nothing.
//
// Conditions that more records can only help (gt and gte of a count or sum, rules
// that have to be there) are judged as records come. Those that later records can
// undo (lt, lte, eq, neq, not, averages and percentiles) are judged once
// nothing can come any more: after settle, by default the longest lateness of all
// sources. So both come out the same in whatever order records arrive.
//
// Of a correlation that holds on and on, one signal is made for each accused
// subject, group and slot: an aligned piece of time as long as the timespan, at
// most 15 minutes. Its id is a hash of these, and its time the slot's beginning.
//
// docs/guides/correlations.md has the types and the names.
package correlate
