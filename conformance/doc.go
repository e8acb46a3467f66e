// Package conformance plays the sidecar against a host program of any language, and says case by case what the program gets right.
//
// The program is the conformance app of docs/hosts.md, behind the host that is to be judged. The package starts it, speaks frames with it over a
// Unix socket of its own, and lends it real TCP connections over loopback, whose other ends it holds too: so it sees what the sidecar would see
// and what the clients would see.
//
// The cases are in the files named *_cases.go; the rest is what they stand on:
//
//	run       which cases, on which process, and what came of them
//	case      what a case may do: wait, fail, skip
//	process   the program: starting, signals, its output, its end
//	tree      the program's processes and their descriptors, as /proc shows them
//	sidecar   the handoff socket, and everything that is known of hosts and connections
//	link      one host's socket
//	lease     one connection and the leases of it
//	client    the other end of a connection
package conformance
