// Package handoff is the wire protocol between the sidecar and its hosts: frames over a Unix stream socket, some of which carry a
// descriptor. PROTOCOL.md is its specification.
//
// The package has two storeys. Frame, Hello, Welcome and Listen are bytes and know no socket; Inbox and Outbox move frames and
// descriptors through a non-blocking socket and say, for each descriptor, who owns it.
package handoff
