// Package host lets a Go app serve the connections that an Anteroom sidecar keeps: the sidecar lends a connection when a request has arrived
// on it, the app answers on the client's own socket and puts the connection back.
//
// Three ways in, from the most to the least done for you:
//
//   - ListenAndServe and Serve run an ordinary http.Server behind the sidecar, until their context ends; then they drain.
//   - Attach and Host.Listener do the same for servers that only take a net.Listener.
//   - Attach and Host.Next deliver leases one by one, for servers that are not net/http.
//
// A host finds its sidecar by Options.Path, else by the environment variable ANTEROOM_HANDOFF, else at /run/anteroom/handoff.sock. When the
// sidecar goes away, the host finishes what it holds and attaches again as soon as it can.
//
// The protocol between the two is in handoff/PROTOCOL.md.
package host
