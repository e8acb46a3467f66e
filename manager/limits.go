package manager

import (
	"errors"
	"fmt"
	"reflect"
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
	// Newcomers is how many peers of the handoff socket may be here that have yet to say HELLO; one more is refused. Default 64.
	Newcomers int
	// Calls is how many calls of operators that go through the connections (Connections, Close,
	// Revoke) may wait at once; one more is ErrBusy. Default 128.
	Calls int
	// Adopted is how many connections that hosts have brought (ADOPT) there may be; one more is
	// denied. Default: half of Connections.
	Adopted int
	// HostAdopted is how many of these one host may have brought; one more is denied. Default: a
	// quarter of Connections.
	HostAdopted int
	// Redeliveries is how often a lease that a host could not take (NACK) is tried again before the connection is closed. Default 3.
	Redeliveries int

	// Finishing is how many responses the sidecar may be sending for hosts (FINISH) at once; one
	// more is denied, and its connection reset. Default 1024.
	Finishing int
	// HostFinishing is how many of them one host may have left to the sidecar. Default 256.
	HostFinishing int
	// Helpers is how many processes may make system calls that may block, those that cannot be
	// ended included. A quarter of them is kept for calls that can be. Default 16.
	Helpers int

	// ClientConnections is how many connections one client address may have, IPv6 counted by /64. Where requests are looked at, the request of one
	// more is answered with 429; elsewhere, and beyond twice as many, a connection is closed as soon as it is here. Default: Off.
	ClientConnections int
	// ClientRate is how many requests per second one client address may send, where requests are looked at; one more is answered with 429. Default: Off.
	ClientRate int
	// ClientBurst is how many requests may come at once, if none came for a while. Default 100.
	ClientBurst int
	// Clients is how many client addresses are known at once, if they are limited. Beyond that the one whose last connection has gone longest ago
	// is forgotten; if all have connections, newcomers are not limited, and are counted. Default: Connections.
	Clients int
	// Requests is how many requests a connection may bring: with the last, its host is told to answer with "Connection: close" (LAST). Default: Off.
	Requests int

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
	// MinIdle is how long a kept connection is idle before it may be evicted because there are more than KeepAlive. At the limit of all Connections
	// it may be evicted at once. Default: Off.
	MinIdle time.Duration
	// Age is how old a connection may become: its next lease then carries LAST, and if it is idle it expires within an eighth of its keep-alive
	// timeout. Default: Off.
	Age time.Duration
	// FirstByteTimeout is how long a new connection may be silent. Default 10 s.
	FirstByteTimeout time.Duration
	// RequestTimeout is how long a request may take to arrive, head and awaited body together; then it is answered with 408. Default 2 min.
	RequestTimeout time.Duration
	// QueueTimeout is how long a request waits for a host before its connection is closed. Default 30 s.
	QueueTimeout time.Duration
	// LeaseWarn is how long a host may have a connection, and nothing of its response flow, before
	// that is logged, counted and told to watchers, once until it flows again. Default 5 min.
	LeaseWarn time.Duration
	// LeaseTimeout is how long a host may have a connection, and nothing of its response flow,
	// before it is taken back, as by Revoke. Default 1 h.
	LeaseTimeout time.Duration
	// SendTimeout is how long a client may take nothing of a response that the sidecar finishes (FINISH), before it is cut off. Default 1 min.
	SendTimeout time.Duration
	// LingerTimeout is how long a closed connection waits for its client to have read everything (its FIN). Default 5 s.
	LingerTimeout time.Duration
	// PingInterval is how long a host may be silent before it is asked for a sign of life (PING). Default 15 s; Off asks nobody.
	PingInterval time.Duration
	// PingTimeout is how long it may take to give one; then it counts as hung, and gets no leases until it does. Default 5 s.
	PingTimeout time.Duration
	// HangTimeout is how long it may be hung before it is hung up on. Default: Off.
	HangTimeout time.Duration
}

// Off as a limit that is off by default, or may be switched off, switches it off.
const Off = -1

// KeepAliveNone as Limits.KeepAlive keeps no connection between requests.
const KeepAliveNone = -1

// The range of every timeout in Limits.
const (
	MinTimeout = time.Millisecond
	MaxTimeout = 7 * 24 * time.Hour
)

// maxConnections is what a slot number has room for, with margin: 2^24 slots (connection.go).
const maxConnections = 1 << 20

// MaxHelpers is the largest Limits.Helpers.
const MaxHelpers = 64

// What a Memory has room for: each has a part of its own there.
const (
	maxHosts     = 12 << 10
	maxNewcomers = 4 << 10
)

// maxPeek bounds what is looked at of one request's head, and of its body.
const maxPeek = 1 << 20

// A Violation is one field of Limits that is out of range.
type Violation struct {
	Field  string // the Go name of the field
	Reason string // what is wrong and what is right
	Range  string // the values that are right, in words
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
	set(&l.Newcomers, 64)
	set(&l.Calls, 128)
	set(&l.Adopted, max(l.Connections/2, 1))
	set(&l.HostAdopted, max(l.Connections/4, 1))
	set(&l.Redeliveries, 3)
	set(&l.Finishing, 1024)
	set(&l.HostFinishing, 256)
	set(&l.Helpers, 16)
	set(&l.ClientConnections, Off)
	set(&l.ClientRate, Off)
	set(&l.ClientBurst, 100)
	set(&l.Clients, l.Connections)
	set(&l.Requests, Off)
	set(&l.Head, 64<<10)
	set(&l.WaitBody, 256<<10)
	set(&l.MinRate, 100)
	set(&l.KeepAliveTimeout, 75*time.Second)
	set(&l.MinIdle, Off)
	set(&l.Age, Off)
	set(&l.FirstByteTimeout, 10*time.Second)
	set(&l.RequestTimeout, 2*time.Minute)
	set(&l.QueueTimeout, 30*time.Second)
	set(&l.LeaseWarn, 5*time.Minute)
	set(&l.LeaseTimeout, time.Hour)
	set(&l.SendTimeout, time.Minute)
	set(&l.LingerTimeout, 5*time.Second)
	set(&l.PingInterval, 15*time.Second)
	set(&l.PingTimeout, 5*time.Second)
	set(&l.HangTimeout, Off)
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
	wrong := func(field string, v any, give string) {
		bad = append(bad, Violation{field, fmt.Sprintf("%v is out of range, give %s", v, give), give})
	}
	count := func(field string, v, least, most int) {
		if v != 0 && (v < least || v > most) {
			wrong(field, v, fmt.Sprintf("%d to %d", least, most))
		}
	}
	timeout := func(field string, v time.Duration) {
		if v != 0 && (v < MinTimeout || v > MaxTimeout) {
			wrong(field, v, timeouts)
		}
	}
	optional := func(field string, v, most int, word string) {
		if v < Off || v > most {
			wrong(field, v, fmt.Sprintf("1 to %d, or %s", most, word))
		}
	}
	optionalTimeout := func(field string, v time.Duration) {
		if v != Off && v != 0 && (v < MinTimeout || v > MaxTimeout) {
			wrong(field, v, timeouts+", or off")
		}
	}
	count("Connections", l.Connections, 1, maxConnections)
	optional("KeepAlive", l.KeepAlive, maxConnections, "none")
	count("Queue", l.Queue, 1, maxConnections)
	count("Hosts", l.Hosts, 1, maxHosts)
	count("Listeners", l.Listeners, 1, 1<<15)
	count("Newcomers", l.Newcomers, 1, maxNewcomers)
	count("Calls", l.Calls, 1, 1<<16)
	count("Adopted", l.Adopted, 1, maxConnections)
	count("HostAdopted", l.HostAdopted, 1, maxConnections)
	count("Finishing", l.Finishing, 1, maxConnections)
	count("HostFinishing", l.HostFinishing, 1, maxConnections)
	count("Helpers", l.Helpers, 4, MaxHelpers)
	optional("ClientConnections", l.ClientConnections, maxConnections, "off")
	optional("ClientRate", l.ClientRate, 1<<20, "off")
	count("ClientBurst", l.ClientBurst, 1, 1<<20)
	count("Clients", l.Clients, 1, maxConnections)
	optional("Requests", l.Requests, 1<<30, "off")
	count("Redeliveries", l.Redeliveries, 1, 250)
	count("Head", l.Head, 64, maxPeek)
	count("WaitBody", l.WaitBody, 1, maxPeek)
	if l.Body < 0 {
		wrong("Body", l.Body, "1 or more, or off")
	}
	count("MinRate", l.MinRate, 1, 1<<30)
	timeout("KeepAliveTimeout", l.KeepAliveTimeout)
	optionalTimeout("MinIdle", l.MinIdle)
	optionalTimeout("Age", l.Age)
	timeout("FirstByteTimeout", l.FirstByteTimeout)
	timeout("RequestTimeout", l.RequestTimeout)
	timeout("QueueTimeout", l.QueueTimeout)
	optionalTimeout("LeaseWarn", l.LeaseWarn)
	timeout("LeaseTimeout", l.LeaseTimeout)
	timeout("SendTimeout", l.SendTimeout)
	timeout("LingerTimeout", l.LingerTimeout)
	optionalTimeout("PingInterval", l.PingInterval)
	timeout("PingTimeout", l.PingTimeout)
	optionalTimeout("HangTimeout", l.HangTimeout)
	if bad == nil {
		return nil
	}
	return &LimitsError{bad}
}

// timeouts is the range of a timeout, in words.
var timeouts = fmt.Sprintf("%v to %v", MinTimeout, MaxTimeout)

// RangeOf is the range of a field of Limits, in words; empty if there is no such field. It is what Check
// says of a value that is right for none.
func RangeOf(field string) string {
	var l Limits
	for i, values := 0, reflect.ValueOf(&l).Elem(); i < values.NumField(); i++ {
		values.Field(i).SetInt(Off - 1)
	}
	bad, _ := errors.AsType[*LimitsError](l.Check())
	for _, v := range bad.Violations {
		if v.Field == field {
			return v.Range
		}
	}
	return ""
}

// merge returns l with the non-zero fields of change in place of its own.
func (l Limits) merge(change Limits) Limits {
	override(&l.Connections, change.Connections)
	override(&l.KeepAlive, change.KeepAlive)
	override(&l.Queue, change.Queue)
	override(&l.Hosts, change.Hosts)
	override(&l.Listeners, change.Listeners)
	override(&l.Newcomers, change.Newcomers)
	override(&l.Calls, change.Calls)
	override(&l.Adopted, change.Adopted)
	override(&l.HostAdopted, change.HostAdopted)
	override(&l.Redeliveries, change.Redeliveries)
	override(&l.Finishing, change.Finishing)
	override(&l.HostFinishing, change.HostFinishing)
	override(&l.Helpers, change.Helpers)
	override(&l.ClientConnections, change.ClientConnections)
	override(&l.ClientRate, change.ClientRate)
	override(&l.ClientBurst, change.ClientBurst)
	override(&l.Clients, change.Clients)
	override(&l.Requests, change.Requests)
	override(&l.Head, change.Head)
	override(&l.WaitBody, change.WaitBody)
	override(&l.Body, change.Body)
	override(&l.MinRate, change.MinRate)
	override(&l.KeepAliveTimeout, change.KeepAliveTimeout)
	override(&l.MinIdle, change.MinIdle)
	override(&l.Age, change.Age)
	override(&l.FirstByteTimeout, change.FirstByteTimeout)
	override(&l.RequestTimeout, change.RequestTimeout)
	override(&l.QueueTimeout, change.QueueTimeout)
	override(&l.LeaseWarn, change.LeaseWarn)
	override(&l.LeaseTimeout, change.LeaseTimeout)
	override(&l.SendTimeout, change.SendTimeout)
	override(&l.LingerTimeout, change.LingerTimeout)
	override(&l.PingInterval, change.PingInterval)
	override(&l.PingTimeout, change.PingTimeout)
	override(&l.HangTimeout, change.HangTimeout)
	return l
}

func override[T int | int64 | time.Duration](field *T, value T) {
	if value != 0 {
		*field = value
	}
}

// unchanged returns l, without the fields whose configured value was another before: what is
// configured now then holds.
func (l Limits) unchanged(before, now Limits) Limits {
	values, was, is := reflect.ValueOf(&l).Elem(), reflect.ValueOf(before), reflect.ValueOf(now)
	for i := range values.NumField() {
		if !was.Field(i).Equal(is.Field(i)) {
			values.Field(i).SetZero()
		}
	}
	return l
}
