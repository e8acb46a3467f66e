// Package manager owns every connection and its state: it accepts, waits for requests, lends connections to hosts and takes them back.
//
// The manager decides, the loop acts. Deciding (policy.go and the files it names) is code without clocks and system calls, so that a
// test can drive it through a million seeded events. Acting (run.go and the files it names) is one goroutine on a locked thread that
// owns the selector, the listeners and the hosts' sockets; every other goroutine posts a command to it and waits for the answer.
package manager
