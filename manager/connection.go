package manager

import "time"

// ConnID names a connection for as long as the sidecar lives: the upper 29 bits are the generation of its slot, the lower 24 the slot. It
// is below 2^53 and never 0.
type ConnID uint64

const (
	slotBits      = 24
	maxSlots      = 1 << slotBits
	maxGeneration = 1<<29 - 1
)

func makeID(generation, slot uint32) ConnID { return ConnID(generation)<<slotBits | ConnID(slot) }

func (id ConnID) slot() uint32       { return uint32(id & (maxSlots - 1)) }
func (id ConnID) generation() uint32 { return uint32(id >> slotBits) }

// HostID numbers the hosts in the order in which they attached; never 0, never used again.
type HostID uint32

// ListenerID numbers the listeners in the order in which they were added; never 0, never used again.
type ListenerID uint32

// State is where a connection is on its way.
//
//	           request            host has room
//	 accept ┌──────┐       ┌───────┐         ┌────────┐
//	───────►│ idle ├──────►│ ready ├────────►│ leased │
//	        └─┬──▲─┘       └─┬───▲─┘         └─┬─┬─┬──┘
//	          │  │           │   └─────────────┘ │ │    NACK: another host
//	          │  └───────────┼───────────────────┘ │    PUT
//	          │              │                     │    CLOSE
//	          │ expired,     │ waited too long,    │
//	          │ hung up,     │ hung up          ┌──▼──────┐  client's FIN, or
//	          └──────────────┴─────────────────►│ closing ├──────────────────► gone
//	                                            └─────────┘  linger time is over
//
// A leased connection may also go at once, by DETACH; or, by FINISH, become finishing: the sidecar sends the rest of the response, then the
// connection is idle or closing.
type State uint8

// The states. Free is a slot of the table without a connection.
const (
	Free State = iota
	Idle
	Ready
	Leased
	Finishing
	Closing
	stateCount
)

var stateNames = [stateCount]string{"free", "idle", "ready", "leased", "finishing", "closing"}

func (s State) String() string { return stateNames[s] }

// marks are what else is known of a connection.
type marks uint32

const (
	fresh      marks = 1 << iota // no request of it has been leased yet
	silent                       // ready only because its time for a first byte is over
	kept                         // counts against Limits.KeepAlive
	held                         // its last host holds a descriptor of it
	sticky                       // only its last host can go on with it
	spurned                      // its last host could not take it: try another first
	partial                      // a request has begun to arrive (partial.go)
	introduced                   // its PROXY header, if it had one, is taken away (introduce.go)
	hushed                       // the selector tells nothing of it (hear.go)
	stirred                      // something came behind its request, or was told of while it was ready or leased
	ended                        // the client has said that it will send no more
	broken                       // it ends in a reset
	replied                      // our own answer to its request is sent, or was about to be: it ends
	moving                       // between two states: it is in no list, and state is what it was
	excess                       // its client has too many: its request is refused unless others have gone by then (clients.go)
	warned                       // its lease is out for longer than Limits.LeaseWarn
	bodiless                     // its request is a HEAD: our own answer to it has no body
	vain                         // where any byte will do: it was told of input, and there was none
)

// record is a connection in the table: fixed size, no pointers, and all there is to know to go on with it. Everything else about a
// connection is asked from the kernel when somebody wants to see it. It fills one cache line.
type record struct {
	since      int64  // when it entered its state, ns of the loop's clock
	taken      uint64 // bytes read from its socket before this request, by hosts and by us; takenUnknown
	generation uint32 // of the slot
	fd         int32
	prev, next uint32 // neighbours in the one list its state puts it in (table.go)
	host       HostID
	seq        uint32 // number of the present or last lease
	requests   uint32 // answered
	created    uint32 // s of the loop's clock
	length     uint32 // of the request that is ready or leased, 0 if unknown
	marks      marks
	head       uint16 // of that request: length of its head, 0 if unknown
	pool       uint16
	listener   uint16
	state      State
	detail     uint8 // idle: its class (idle.go); ready or leased: leases of this request that were not taken
}

// Reason is why a connection is closed.
type Reason uint8

// The reasons. Their names are what operators, metrics and logs show.
const (
	ReasonNone              Reason = iota
	ReasonHost                     // the host said CLOSE
	ReasonDetached                 // the host keeps it
	ReasonExpired                  // idle for its keep-alive timeout
	ReasonHungUp                   // ended by the client
	ReasonSilent                   // no first byte in time
	ReasonEvicted                  // least recently used of too many
	ReasonOperator                 // asked for over gRPC
	ReasonQueueFull                // no room in its pool's queue
	ReasonQueueTime                // waited too long for a host
	ReasonLeaseTime                // leased too long
	ReasonHostGone                 // its host went with it
	ReasonRefused                  // no host would take it
	ReasonStopped                  // cut by Stop or shutdown, or its pool ended
	ReasonFailed                   // a system call on it failed
	ReasonSlow                     // its request did not arrive in time, or too slowly
	ReasonMalformed                // its request cannot be answered by anybody
	ReasonHeadTooLong              // its request's head is over the limit
	ReasonBodyTooLong              // its request's body is over the limit
	ReasonSlowReader               // it did not take its response in time, or too slowly
	ReasonClientConnections        // its client has too many
	ReasonClientRequests           // its client sends too many requests
	reasonCount
)

var reasonNames = [reasonCount]string{
	"none", "host", "detached", "expired", "hung_up", "silent", "evicted", "operator", "queue_full", "queue_timeout", "lease_timeout",
	"host_gone", "refused", "stopped", "failed", "slow", "malformed", "head_too_long", "body_too_long", "slow_reader", "client_connections", "client_requests",
}

func (r Reason) String() string { return reasonNames[r] }

// Reasons lists every reason a connection can be closed for.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := ReasonHost; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}

// Connection is what can be seen of a connection from outside, at one moment.
type Connection struct {
	ID       ConnID
	State    State
	Pool     string
	Listener string // its address; empty if adopted
	Host     HostID // that has it or had it last; 0: none yet
	HostName string // empty if that host has gone
	Peer     string // the client's address
	Fresh    bool   // no request yet
	Sticky   bool
	Requests uint32 // answered so far
	Age      time.Duration
	InState  time.Duration // idle time if idle, waiting time if ready …

	// From TCP_INFO (tcp(7)); zero for Unix sockets.
	RTT           time.Duration
	BytesReceived uint64
	BytesSent     uint64 // acknowledged by the client
}
