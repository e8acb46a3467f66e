package manager

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound everything that can grow or wait. A zero field means its default.
type Limits struct {
	// Connections is how many connections there may be in all states together. At the limit the least recently used kept connection makes
	// room for a new one; if there is none, accepting pauses and clients wait in the kernel's backlog. Default: the process's descriptor
	// limit (RLIMIT_NOFILE) less 256, at most 1<<20.
	Connections int
	// KeepAlive is how many connections may be kept between requests. At the limit hosts are told to answer with "Connection: close" (LAST);
	// what is put all the same evicts the least recently used. Default: Connections. KeepAliveNone keeps none.
	KeepAlive int
	// Queue is how many ready connections may wait in one pool's queue for a host; one more is closed. Default: Connections.
	Queue int
	// Hosts is how many hosts may be attached; one more is refused. Default 1024.
	Hosts int
	// Listeners is how many listening sockets there may be, hosts' own included; one more is denied. Default 1024.
	Listeners int
	// Redeliveries is how often a lease that a host could not take (NACK) is tried again before the connection is closed. Default 3.
	Redeliveries int

	// Head is how many bytes a request's head may have; a longer one is answered with 431. Default 64 KiB.
	Head int
	// WaitBody is how many bytes of body are waited for before a worker gets the request; a longer body is handed over with its head. They wait in the
	// kernel's receive buffer, whose own bound (net.ipv4.tcp_rmem, half of its maximum) comes first. Default 256 KiB.
	WaitBody int
	// Body is how many bytes of body a request may announce; a longer one is answered with 413. Default: no limit.
	Body int64
	// MinRate is how many bytes per second a request must bring on average once it has begun, looked at every 5 s; a slower one is answered
	// with 408. The same rate holds for clients that take a response which the sidecar finishes. Default 100.
	MinRate int

	// KeepAliveTimeout is how long a connection stays idle between requests if its put names no other time. Default 75 s.
	KeepAliveTimeout time.Duration
	// FirstByteTimeout is how long a new connection may be silent. Default 10 s.
	FirstByteTimeout time.Duration
	// RequestTimeout is how long a request may take to arrive, head and awaited body together; then it is answered with 408. Default 2 min.
	RequestTimeout time.Duration
	// QueueTimeout is how long a request waits for a host before its connection is closed. Default 30 s.
	QueueTimeout time.Duration
	// LeaseTimeout is how long a host may have a connection before it is taken back and closed. Default 1 h.
	LeaseTimeout time.Duration
	// SendTimeout is how long a client may take nothing of a response that the sidecar finishes (FINISH), before it is cut off. Default 1 min.
	SendTimeout time.Duration
	// LingerTimeout is how long a closed connection waits for its client to have read everything (its FIN). Default 5 s.
	LingerTimeout time.Duration
}

// KeepAliveNone as Limits.KeepAlive keeps no connection between requests.
const KeepAliveNone = -1

// The range of every timeout in Limits.
const (
	MinTimeout = time.Millisecond
	MaxTimeout = 7 * 24 * time.Hour
)

// maxConnections is what a slot number has room for, with margin: 2^24 slots (connection.go).
const maxConnections = 1 << 20

// maxPeek bounds what is looked at of one request's head, and of its body.
const maxPeek = 1 << 20

// A Violation is one field of Limits that is out of range.
type Violation struct {
	Field  string // the Go name of the field
	Reason string // what is wrong and what is right
}

// LimitsError lists every violation found.
type LimitsError struct{ Violations []Violation }

func (e *LimitsError) Error() string {
	var errs []error
	for _, v := range e.Violations {
		errs = append(errs, fmt.Errorf("%s: %s", v.Field, v.Reason))
	}
	return errors.Join(errs...).Error()
}

// withDefaults fills the zero fields; descriptors is the process's limit of open files.
func (l Limits) withDefaults(descriptors int) Limits {
	set(&l.Connections, min(max(descriptors-256, 16), maxConnections))
	set(&l.KeepAlive, l.Connections)
	set(&l.Queue, l.Connections)
	set(&l.Hosts, 1024)
	set(&l.Listeners, 1024)
	set(&l.Redeliveries, 3)
	set(&l.Head, 64<<10)
	set(&l.WaitBody, 256<<10)
	set(&l.MinRate, 100)
	set(&l.KeepAliveTimeout, 75*time.Second)
	set(&l.FirstByteTimeout, 10*time.Second)
	set(&l.RequestTimeout, 2*time.Minute)
	set(&l.QueueTimeout, 30*time.Second)
	set(&l.LeaseTimeout, time.Hour)
	set(&l.SendTimeout, time.Minute)
	set(&l.LingerTimeout, 5*time.Second)
	return l
}

func set[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Check reports every field that is out of range as a *LimitsError, or nil. Zero fields are right: they mean the default.
func (l Limits) Check() error {
	var bad []Violation
	count := func(field string, v, least, most int) {
		if v != 0 && (v < least || v > most) {
			bad = append(bad, Violation{field, fmt.Sprintf("%d is out of range, give %d to %d", v, least, most)})
		}
	}
	timeout := func(field string, v time.Duration) {
		if v != 0 && (v < MinTimeout || v > MaxTimeout) {
			bad = append(bad, Violation{field, fmt.Sprintf("%v is out of range, give %v to %v", v, MinTimeout, MaxTimeout)})
		}
	}
	count("Connections", l.Connections, 1, maxConnections)
	if l.KeepAlive < KeepAliveNone || l.KeepAlive > maxConnections {
		bad = append(bad, Violation{"KeepAlive", fmt.Sprintf("%d is out of range, give 1 to %d, or none", l.KeepAlive, maxConnections)})
	}
	count("Queue", l.Queue, 1, maxConnections)
	count("Hosts", l.Hosts, 1, 1<<16)
	count("Listeners", l.Listeners, 1, 1<<15)
	count("Redeliveries", l.Redeliveries, 1, 250)
	count("Head", l.Head, 64, maxPeek)
	count("WaitBody", l.WaitBody, 1, maxPeek)
	if l.Body < 0 {
		bad = append(bad, Violation{"Body", fmt.Sprintf("%d is out of range, give 0 (no limit) or more", l.Body)})
	}
	count("MinRate", l.MinRate, 1, 1<<30)
	timeout("KeepAliveTimeout", l.KeepAliveTimeout)
	timeout("FirstByteTimeout", l.FirstByteTimeout)
	timeout("RequestTimeout", l.RequestTimeout)
	timeout("QueueTimeout", l.QueueTimeout)
	timeout("LeaseTimeout", l.LeaseTimeout)
	timeout("SendTimeout", l.SendTimeout)
	timeout("LingerTimeout", l.LingerTimeout)
	if bad == nil {
		return nil
	}
	return &LimitsError{bad}
}

// merge returns l with the non-zero fields of change in place of its own.
func (l Limits) merge(change Limits) Limits {
	override(&l.Connections, change.Connections)
	override(&l.KeepAlive, change.KeepAlive)
	override(&l.Queue, change.Queue)
	override(&l.Hosts, change.Hosts)
	override(&l.Listeners, change.Listeners)
	override(&l.Redeliveries, change.Redeliveries)
	override(&l.Head, change.Head)
	override(&l.WaitBody, change.WaitBody)
	override(&l.Body, change.Body)
	override(&l.MinRate, change.MinRate)
	override(&l.KeepAliveTimeout, change.KeepAliveTimeout)
	override(&l.FirstByteTimeout, change.FirstByteTimeout)
	override(&l.RequestTimeout, change.RequestTimeout)
	override(&l.QueueTimeout, change.QueueTimeout)
	override(&l.LeaseTimeout, change.LeaseTimeout)
	override(&l.SendTimeout, change.SendTimeout)
	override(&l.LingerTimeout, change.LingerTimeout)
	return l
}

func override[T int | int64 | time.Duration](field *T, value T) {
	if value != 0 {
		*field = value
	}
}
