package manager

import (
	"errors"
	"slices"
	"time"
)

// Errors of the operators' calls.
var (
	ErrNotFound  = errors.New("no such connection")
	ErrNotLeased = errors.New("not leased")
	ErrStopped   = errors.New("the manager has ended")
	ErrReplaced  = errors.New("another process has taken over")
)

// Counts is how many connections are where, and what has happened since the start.
type Counts struct {
	States    StateCounts
	Listeners []ListenerCounts
	Pools     []PoolCounts
	Hosts     []HostInfo
	Totals    Totals
	Uptime    time.Duration
	Running   bool         // false between Stop and Start
	State     ServiceState // of the whole

	Successions uint64 // how often a process has taken over from another

	Helpers HelperCounts
}

// HelperCounts describes the helpers: processes for system calls that may block (Limits.Helpers).
type HelperCounts struct {
	Busy    int // that make a call now
	Stuck   int // that cannot be ended
	Waiting int // calls for which there is no helper yet
}

// StateCounts is a number of connections by state.
type StateCounts struct{ Idle, Ready, Leased, Finishing, Closing int }

// Sum is the number of connections in all states.
func (c StateCounts) Sum() int { return c.Idle + c.Ready + c.Leased + c.Finishing + c.Closing }

// ListenerCounts describes a listener.
type ListenerCounts struct {
	ID       ListenerID
	Name     string
	Address  string
	Pool     string
	Host     HostID // the host that brought it, 0: the sidecar's own
	States   StateCounts
	Accepted uint64
	Paused   bool         // not accepting now: stopped, at a limit or out of descriptors
	Service  ServiceState // its pool's
}

// PoolCounts describes a pool.
type PoolCounts struct {
	Name    string
	Private bool
	Fed     bool // a listener feeds it
	Service ServiceState
	Hosts   int
	States  StateCounts
}

// HostInfo describes an attached host.
type HostInfo struct {
	ID         HostID
	Name       string
	Pool       string
	Agent      string
	PID        int32 // 0 across pid namespaces
	UID        uint32
	Features   []string
	Capacity   int
	Leased     int
	Draining   bool
	Hung       bool // it gives no sign of life, and gets no leases until it does
	Service    ServiceState
	Attached   time.Duration // since when
	Leases     uint64
	Nacks      uint64
	Stale      uint64 // answers ignored, their lease was over
	Violations uint64 // times it left O_NONBLOCK cleared
}

// Totals counts since the start.
type Totals struct {
	Accepted, Adopted uint64
	Leases, Puts      uint64
	Requests          uint64    // answered, as hosts report
	Redelivered       uint64    // leases tried again after NACK
	Crossed           uint64    // expiries given up because a request had just arrived
	Answered          uint64    // requests answered by the sidecar itself, with an error
	Answers           [8]uint64 // the same by status, in the order of AnswerStatuses
	Overdue           uint64    // leases that were out for longer than Limits.LeaseWarn
	ClientsUnlimited  uint64    // connections not counted for their client, since Limits.Clients were known
	Finished          uint64    // responses whose rest was left to the sidecar (FINISH)
	Stale             uint64    // hosts' answers ignored, their lease was over
	Violations        uint64    // O_NONBLOCK found cleared
	HostsAttached     uint64
	HostsRefused      uint64 // not welcomed: wrong user, version, limits …
	HostsFailed       uint64 // hung up on with ERROR
	HostsHung         uint64 // times a host gave no sign of life in time
	AcceptPauses      uint64 // at a limit or out of descriptors
	Closed            [reasonCount]uint64
	LeaseWaits        Histogram // from when a request was there until a host got it
}

// ClosedFor is how many connections were closed for the reason.
func (t *Totals) ClosedFor(r Reason) uint64 { return t.Closed[r] }

// Histogram counts durations.
type Histogram struct {
	Buckets [18]uint64 // up to each of HistogramBounds and above the one before, and those above all
	Sum     time.Duration
}

// HistogramBounds are the upper bounds of a Histogram's buckets but the last.
func HistogramBounds() []time.Duration { return slices.Clone(histogramBounds[:]) }

var histogramBounds = [17]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second,
}

func (h *Histogram) add(d time.Duration) {
	i := 0
	for i < len(histogramBounds) && d > histogramBounds[i] {
		i++
	}
	h.Buckets[i]++
	h.Sum += d
}

// Capacity is how many connections may be kept between requests.
type Capacity struct {
	Limit  int
	InUse  int // kept now, or promised to a host with its lease
	CanAdd bool
}

// Selection chooses connections; empty fields choose all.
type Selection struct {
	IDs    []ConnID
	States []State
	Pool   string
	Host   HostID
	Peer   string // a client's address without port, or a prefix in CIDR form
}

// Query asks for one page of connections.
type Query struct {
	Selection
	After ConnID // the last id of the page before, 0 for the first page
	Limit int    // connections on a page, 1 to MaxPage; 0: DefaultPage
}

// Page sizes of Query.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Page is an answer to Query, in the order of slots. Next is what the next Query's After must be, 0 if this was the last.
type Page struct {
	Connections []Connection
	Next        ConnID
}

// StopReport says what a Stop did.
type StopReport struct {
	Finished int // leases that came back within the grace
	Cut      int // leases taken back and closed when it was over, and, at a Shutdown, responses that were not sent to their end
}

// EventKind is what an Event tells.
type EventKind uint8

// The kinds.
const (
	EventAccepted EventKind = iota + 1
	EventLeased
	EventPut
	EventExpired
	EventClosed
	EventDetached
	EventHostAttached
	EventHostGone
	EventStopped
	EventStarted
	EventLeaseOverdue
	EventHostHung
	EventHostAlive
	eventKindCount
)

var eventNames = [eventKindCount]string{
	"", "accepted", "leased", "put", "expired", "closed", "detached", "host_attached", "host_gone", "stopped", "started",
	"lease_overdue", "host_hung", "host_alive",
}

func (k EventKind) String() string { return eventNames[k] }

// Event is something that happened.
type Event struct {
	Kind   EventKind
	Time   time.Time
	Conn   ConnID // 0 for events about hosts
	Host   HostID // 0 where none
	Name   string // the host's
	Pool   string
	Peer   string // the client's address, of EventAccepted, EventClosed, EventExpired and EventDetached; empty if the client has reset the connection
	Reason Reason // of EventClosed
	Detail string // of EventHostGone: why
	Lost   uint64 // events this watcher missed just before this one, because it was slow
}
