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
// A client that reads slowly costs nothing once its response is made: what it has not taken is left to the sidecar, from memory within the bounds of
// Options.Spill and Options.SpillTotal, or straight from the file that the handler has sent (http.ServeContent, io.Copy, or X-Sendfile, see SendFile).
//
// The protocol between the two is in handoff/PROTOCOL.md.
package host
