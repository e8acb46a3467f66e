// Package listener opens listening sockets, takes over those that others opened, and accepts connections from them. It is for Linux.
//
// Everything here speaks in bare descriptors, non-blocking and close-on-exec, because the caller watches them with its own selector and
// passes them on to other processes. A Listener owns its descriptor; an accepted one belongs to the caller of Accept.
//
// A listening socket may have other holders: the process that bound it, or one it was handed to. They share its queue and its flags
// (O_NONBLOCK is set on it here and holds for all), and shutdown(2) by one of them ends it for all, which Accept reports.
package listener
