// Package ocsf validates OCSF events against the published schema sources.
//
// It is for tests only. [Load] reads an uncompiled schema directory (version,
// categories, dictionary, events, objects, profiles and extensions) and
// [Schema.Validate] checks one event against the whole of it: inheritance,
// includes, profiles, extensions, nested objects, types, enumerations, label
// siblings, constraints and observable references.
//
// How the parts of the schema take effect:
//
//   - The core schema always applies. An extension applies to an event only
//     when metadata.extensions names it: its classes, objects, attributes and
//     the patches it makes to core objects (constraints included) are invisible
//     otherwise.
//   - A profile applies when metadata.profiles names it, and a class accepts the
//     profiles that it, its ancestors, or any object reachable from it declares.
//     An attribute that belongs to a profile is unknown without that profile and
//     as required as the profile says with it.
//   - Each timestamp attribute gains a "_dt" datetime attribute under the
//     datetime profile, in classes and objects alike.
//   - The event's metadata.version may be any release from 1.0.0 up to the
//     schema's own version.
//
// Labels are held to what the schema says of them: beside an enumerated value
// the sibling, if present, is the caption of that value, and beside the value
// 99 (Other) it has to be present with the source's own label.
//
// Deprecated classes and attributes are valid, and missing recommended
// attributes are not reported. Two checks go beyond the letter of the schema,
// because its own patterns cannot catch the mistakes: an ip_t has to parse as an
// address, and a timestamp_t other than zero has to be plausible as milliseconds
// (1973 to 9999), which finds seconds, microseconds and nanoseconds.
package ocsf
