// Package sidecar puts Anteroom together: it reads the configuration, opens the sockets, runs the manager, and lets operators at it over
// gRPC and HTTP. It is the only composition root; everything else is given what it needs.
package sidecar
