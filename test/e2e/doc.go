// Package e2e has the stories that staunch is made for, on real systems: a
// platform's own log is followed, a rule matches what a thief does, the platform
// is acted upon, and all is put back. It has tests only. The node runs in the
// test's process, from a configuration file as a person would write it.
//
// What the platforms wrote into their logs is put through the formats' own
// conformance check at the end of each story, line by line. Where the environment
// variable STAUNCH_CAPTURE names a folder, the logs are copied into it, to take
// fixtures from.
package e2e
