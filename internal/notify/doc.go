// Package notify tells people, after containment.
//
// Messages are put into the outbox (store.Notice) by the transaction that they
// tell about, and a Dispatcher delivers them afterwards. Nothing here can delay
// or undo a hold: the outbox is read by another goroutine, and what a channel
// answers changes nothing but its notice's row. Every channel has workers of its
// own, so that one that hangs delays no other.
//
// Delivery is at least once. A crash between the channel's answer and the commit
// of the row sends the message again, with the same id: webhooks carry it as
// webhook-id for their receivers to drop the second one; Slack has no such thing
// and may show a message twice. A notice that was given up keeps its error.
//
// # Where messages may go
//
// A channel's URL comes from the operator's configuration file and never from an
// event, a rule or the API, so private addresses are allowed: receivers inside
// are the usual case. What is refused all the same: http to anything but
// loopback (unless allow_http says so), redirects to another host, scheme or
// method, credentials in the URL, and, at the moment of dialling, so that no DNS
// answer gets around it, link-local addresses (where clouds serve their
// machines' credentials), multicast and the unspecified address. A proxy from
// the environment is used, and is then what is dialled. Answers are read up to
// a few kilobytes. URLs and secrets are never logged; a Slack URL is a secret.
package notify
