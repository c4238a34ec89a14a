// Package sigma compiles single-event Sigma rules (specification 2.1) and
// matches them on parsed JSON records.
//
// A rule goes through four stages: YAML nodes (so that every refusal names a
// file and a line), an expression over named selections, predicates that are
// interned across all rules of a [Set] and evaluated at most once a record, and
// an index from literal values to the rules that need one of them. Whatever is
// not supported is refused with its place and reason; nothing in a rule that
// could change what it matches is ignored. Refused here: the old aggregation
// syntax (| count(), near, timeframe) and rules whose status is unsupported.
// Correlation documents go to [Options.Correlation], and are refused without one.
//
// Filters are put into the rules that they are for when the files have been read
// ([Filter]); a [Pipeline] translates fields, log sources and placeholders while
// they are. A rule of taxonomy ocsf is matched on the mapped event, by a Set of
// its own inside the Set ([Set.MatchMapped]).
//
// # What a rule means here
//
// Fields are looked up by name as dotted paths, exactly, and where an object has
// no such key without regard to the case of ASCII letters, because exporters
// change it. A key that contains the dots literally is found as well, arrays are
// spread, and a predicate holds when any of the values reached satisfies it
// ([jsondoc.Path]).
//
//   - Strings compare without regard to case, by Unicode's simple folding, and
//     whole; * stands for any text, ? for one character. A backslash makes a
//     following *, ? or backslash literal and is itself literal before anything
//     else. With cased, case counts. A value that is * alone holds for every
//     value that is there and not null.
//   - A number in a rule equals a number in the record by value, and a string by
//     its decimal text or as it is written: 5 matches 5, 5.0 and "5", 1.10
//     matches "1.10". Whole numbers above 64 bits equal their digits alone. A string in a rule equals a
//     number by its literal or its shortest decimal text, and a bool by true or
//     false in any case. A bool in a rule does the same.
//   - null holds when the field is absent or null (or an array with a null in
//     it); ” holds only for an empty string that is there. An empty array is
//     neither.
//   - A string predicate on an object sees its JSON text with the escapes inside
//     strings resolved. So requestParameters|contains: Suspended works on an
//     object; a rule about one member should name it.
//   - exists asks whether the field is there; null is. fieldref compares with
//     the other field's values and never holds when either is absent; it may be
//     joined by contains, startswith, endswith and cased. lt, lte, gt and gte
//     compare numbers and strings that read as numbers, and never hold for
//     anything else.
//   - neq negates its item, so like a negated selection it also holds for an
//     absent field; add exists where that is not wanted.
//   - minute, hour, day, week (ISO 8601), month and year read RFC 3339 and
//     similar timestamps in the offset they are written in, and numbers,
//     or strings of 10, 13, 16 or 19 digits, as Unix time in UTC (seconds, or
//     milli-, micro- or nanoseconds by size); lt, lte, gt, gte may follow.
//   - windash lets each dash or slash before a word stand for any of - / – — ―.
//     base64offset gives three alternatives; contains is usually wanted with it.
//     utf16, utf16le (wide) and utf16be go before base64; without it they work
//     for ASCII only.
//   - re is searched unanchored with Go's RE2 syntax, case-sensitively, with i, m
//     and s as flags; what RE2 lacks (look-around, back-references) is refused.
//   - expand replaces %name% by the values given in [Options].Placeholders, which
//     may hold wildcards, in re too; a placeholder without values is refused, or where
//     the rule says optional: true leaves it out, with a note.
//   - Values without a field (keywords) are searched in every key and every
//     scalar of the record, each on its own, as contains does.
//   - A list of values is OR, with all AND; a map is AND; a list of maps is OR; a
//     list of conditions is OR. 1 of and all of take them or a pattern with *;
//     them and patterns leave out names that begin with an underscore unless the
//     pattern does too. A pattern that names nothing is refused.
//
// A rule without an id is named "path: title".
//
// # Staunch's own keys
//
// At a rule's top level, beside Sigma's:
//
//	accuse: [session, credential]       # kinds of the refs the record's format found
//	accuse:                             # or fields that name them
//	  account: userIdentity.arn
//	  session: {field: sessionId, scheme: session-id}
//	confidence: 0.8                     # 0 to 1, instead of the level's
//	mode: shadow                        # shadow, recommend or enforce
//
// Without confidence the level gives it: informational 0.10, low 0.25, medium
// 0.50, high 0.75, critical 0.90; a rule with neither has low's. Any other
// top-level key is a user's own and carries no meaning; it is noted unless it
// begins with "x-", and refused when it is a letter or two from a key that has one.
// SigmaHQ's repository keys regression_tests_path and simulation are not noted.
//
// # Log sources
//
// See [Logsource.Covers].
package sigma
