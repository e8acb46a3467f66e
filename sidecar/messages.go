package sidecar

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// The contract's enums and the manager's speak the same words; the words tie them together, not the numbers.
var (
	stateOf     = byName[pb.ConnectionState]("CONNECTION_STATE_", []manager.State{manager.Idle, manager.Ready, manager.Leased, manager.Finishing, manager.Closing})
	reasonOf    = byName[pb.CloseReason]("CLOSE_REASON_", manager.Reasons())
	eventKindOf = byName[pb.EventKind]("EVENT_KIND_", eventKinds)

	serviceStateOf = byName[pb.ServiceState]("SERVICE_STATE_", manager.ServiceStates())

	serviceMessage   = inverse(serviceStateOf)
	stateMessage     = inverse(stateOf)
	reasonMessage    = inverse(reasonOf)
	eventKindMessage = inverse(eventKindOf)
)

var eventKinds = []manager.EventKind{
	manager.EventAccepted, manager.EventLeased, manager.EventPut, manager.EventExpired, manager.EventClosed, manager.EventDetached,
	manager.EventHostAttached, manager.EventHostGone, manager.EventStopped, manager.EventStarted,
	manager.EventLeaseOverdue, manager.EventHostHung, manager.EventHostAlive,
}

type enum interface {
	~int32
	protoreflect.Enum
}

type named interface {
	comparable
	String() string
}

// byName maps each value of the contract's enum E to the value of the manager's that has its name after the prefix. A value without a
// counterpart would be a mistake in the contract, which a test finds; it is shown as unspecified.
func byName[E enum, V named](prefix string, values []V) map[E]V {
	var zero E
	names := zero.Descriptor().Values()
	m := make(map[E]V, len(values))
	for _, v := range values {
		if value := names.ByName(protoreflect.Name(prefix + strings.ToUpper(v.String()))); value != nil {
			m[E(value.Number())] = v
		}
	}
	return m
}

func inverse[K, V comparable](m map[K]V) map[V]K {
	inv := make(map[V]K, len(m))
	for k, v := range m {
		inv[v] = k
	}
	return inv
}

func messages[V, M any](values []V, message func(*V) M) []M {
	all := make([]M, len(values))
	for i := range values {
		all[i] = message(&values[i])
	}
	return all
}

// text makes a string from outside fit for a message: protobuf refuses to send what is not UTF-8, and a path or a host's words need not be.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func countsMessage(c manager.Counts) *pb.GetConnectionCountsResponse {
	return &pb.GetConnectionCountsResponse{
		States:    stateCountsMessage(c.States),
		Listeners: messages(c.Listeners, listenerMessage),
		Pools:     messages(c.Pools, poolMessage),
		Hosts:     messages(c.Hosts, hostCountsMessage),
		Totals:    totalsMessage(&c.Totals),
		Uptime:    durationpb.New(c.Uptime),
		Running:   c.Running,

		Successions: c.Successions,
		State:       serviceMessage[c.State],
	}
}

func stateCountsMessage(c manager.StateCounts) *pb.StateCounts {
	return &pb.StateCounts{
		Idle: uint32(c.Idle), Ready: uint32(c.Ready), Leased: uint32(c.Leased), Finishing: uint32(c.Finishing), Closing: uint32(c.Closing),
	}
}

func listenerMessage(l *manager.ListenerCounts) *pb.ListenerCounts {
	return &pb.ListenerCounts{
		ListenerId: uint32(l.ID),
		Name:       text(l.Name),
		Address:    text(l.Address),
		Pool:       l.Pool,
		HostId:     uint32(l.Host),
		States:     stateCountsMessage(l.States),
		Accepted:   l.Accepted,
		Paused:     l.Paused,
		State:      serviceMessage[l.Service],
	}
}

func poolMessage(p *manager.PoolCounts) *pb.PoolCounts {
	return &pb.PoolCounts{
		Name: p.Name, Private: p.Private, Hosts: uint32(p.Hosts), States: stateCountsMessage(p.States),
		State: serviceMessage[p.Service], Fed: p.Fed,
	}
}

func hostCountsMessage(h *manager.HostInfo) *pb.HostCounts {
	return &pb.HostCounts{
		HostId: uint32(h.ID), Name: h.Name, Pool: h.Pool, Capacity: uint32(h.Capacity), Leased: uint32(h.Leased),
		State: serviceMessage[h.Service],
	}
}

func totalsMessage(t *manager.Totals) *pb.Totals {
	return &pb.Totals{
		Accepted:      t.Accepted,
		Adopted:       t.Adopted,
		Leases:        t.Leases,
		Puts:          t.Puts,
		Requests:      t.Requests,
		Redelivered:   t.Redelivered,
		Crossed:       t.Crossed,
		Answered:      t.Answered,
		Finished:      t.Finished,
		Stale:         t.Stale,
		Violations:    t.Violations,
		HostsAttached: t.HostsAttached,
		HostsRefused:  t.HostsRefused,
		HostsFailed:   t.HostsFailed,
		AcceptPauses:  t.AcceptPauses,
		Closed:        closedMessages(t),
		Answers:       answerMessages(t),

		Overdue:          t.Overdue,
		HostsHung:        t.HostsHung,
		ClientsUnlimited: t.ClientsUnlimited,
	}
}

func answerMessages(t *manager.Totals) (all []*pb.AnswerCount) {
	for i, status := range manager.AnswerStatuses() {
		all = append(all, &pb.AnswerCount{Status: uint32(status), Count: t.Answers[i]})
	}
	return all
}

func closedMessages(t *manager.Totals) []*pb.ClosedCount {
	return messages(manager.Reasons(), func(r *manager.Reason) *pb.ClosedCount {
		return &pb.ClosedCount{Reason: reasonMessage[*r], Count: t.ClosedFor(*r)}
	})
}

func connectionMessage(c *manager.Connection) *pb.Connection {
	return &pb.Connection{
		ConnectionId: uint64(c.ID),
		State:        stateMessage[c.State],
		Pool:         c.Pool,
		Listener:     text(c.Listener),
		HostId:       uint32(c.Host),
		HostName:     c.HostName,
		Peer:         text(c.Peer),
		Fresh:        c.Fresh,
		Sticky:       c.Sticky,
		Requests:     c.Requests,
		Age:          durationpb.New(c.Age),
		TimeInState:  durationpb.New(c.InState),
		Tcp:          tcpMessage(c),
	}
}

// tcpMessage is absent for a Unix socket, of which the manager knows none of these numbers.
func tcpMessage(c *manager.Connection) *pb.TcpInfo {
	if c.RTT == 0 && c.BytesReceived == 0 && c.BytesSent == 0 {
		return nil
	}
	return &pb.TcpInfo{Rtt: durationpb.New(c.RTT), BytesReceived: c.BytesReceived, BytesSent: c.BytesSent}
}

func hostMessage(h *manager.HostInfo) *pb.Host {
	return &pb.Host{
		HostId:     uint32(h.ID),
		Name:       h.Name,
		Pool:       h.Pool,
		Agent:      text(h.Agent),
		Pid:        h.PID,
		Uid:        h.UID,
		Features:   h.Features,
		Capacity:   uint32(h.Capacity),
		Leased:     uint32(h.Leased),
		Draining:   h.Draining,
		Attached:   durationpb.New(h.Attached),
		Leases:     h.Leases,
		Nacks:      h.Nacks,
		Stale:      h.Stale,
		Violations: h.Violations,
		Hung:       h.Hung,
		State:      serviceMessage[h.Service],
	}
}

func clientMessage(c *manager.Client) *pb.Client {
	message := &pb.Client{
		Address: c.Address, Connections: uint32(c.Connections), Requests: c.Requests, Refusals: c.Refusals, LastRefusal: reasonMessage[c.Reason],
	}
	if c.Refusals > 0 {
		message.SinceRefusal = durationpb.New(c.Refused)
	}
	return message
}

func eventMessage(e *manager.Event) *pb.Event {
	return &pb.Event{
		Kind:         eventKindMessage[e.Kind],
		Time:         timestamppb.New(e.Time),
		ConnectionId: uint64(e.Conn),
		HostId:       uint32(e.Host),
		HostName:     e.Name,
		Pool:         e.Pool,
		Peer:         text(e.Peer),
		Reason:       reasonMessage[e.Reason],
		Detail:       text(e.Detail),
		Lost:         e.Lost,
	}
}
