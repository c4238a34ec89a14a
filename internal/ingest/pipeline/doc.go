// Package pipeline joins the rooms: it takes records through keys, detect,
// facts and decide, commits what they cause in one transaction (T1), and only
// then lets the source be acknowledged.
//
// A record is committed when it matched a rule, states a fact, or concerns a
// contained subject; any other costs no write. What a record causes is a
// function of the record, the configuration and what was committed before:
// delivering it again changes nothing.
package pipeline
