package sidecar

import (
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// maxSelectedIDs is how many connections one selection may name.
const maxSelectedIDs = 1000

// violations collects what is wrong with a request, field by field. Its methods read one field each and return the zero value for what they
// complain about.
type violations []*errdetails.BadRequest_FieldViolation

func (v *violations) add(field, format string, args ...any) {
	*v = append(*v, &errdetails.BadRequest_FieldViolation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// timeout reads an optional timeout; absent: 0.
func (v *violations) timeout(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	t := d.AsDuration()
	if d.CheckValid() != nil || t < manager.MinTimeout || t > manager.MaxTimeout {
		v.add(field, "%s is out of range; give %v to %v", seconds(d), manager.MinTimeout, manager.MaxTimeout)
		return 0
	}
	return t
}

// grace reads an optional grace period, which unlike a timeout may be zero.
func (v *violations) grace(field string, d *durationpb.Duration) time.Duration {
	if d == nil || d.Seconds == 0 && d.Nanos == 0 {
		return 0
	}
	t := d.AsDuration()
	if d.CheckValid() != nil || t < 0 || t > manager.MaxTimeout {
		v.add(field, "%s is out of range; give 0s to %v", seconds(d), manager.MaxTimeout)
		return 0
	}
	return t
}

// seconds shows a duration as it was given, even one too long for time.Duration.
func seconds(d *durationpb.Duration) string {
	if d.CheckValid() != nil || d.Nanos == 0 {
		return fmt.Sprintf("%ds", d.Seconds)
	}
	return d.AsDuration().String()
}

func (v *violations) selection(field string, s *pb.ConnectionSelection) manager.Selection {
	if s == nil {
		return manager.Selection{}
	}
	return manager.Selection{
		IDs:    v.connectionIDs(field+".connection_ids", s.ConnectionIds),
		States: v.states(field+".states", s.States),
		Pool:   s.Pool,
		Host:   manager.HostID(s.HostId),
		Peer:   v.peer(field+".peer", s.Peer),
	}
}

func (v *violations) connectionIDs(field string, ids []uint64) []manager.ConnID {
	if len(ids) > maxSelectedIDs {
		v.add(field, "%d ids are too many; give at most %d at a time", len(ids), maxSelectedIDs)
		return nil
	}
	named := make([]manager.ConnID, len(ids))
	for i, id := range ids {
		named[i] = manager.ConnID(id)
	}
	return named
}

func (v *violations) states(field string, states []pb.ConnectionState) []manager.State {
	var known []manager.State
	for i, s := range states {
		if state, ok := stateOf[s]; ok {
			known = append(known, state)
		} else {
			v.add(fmt.Sprintf("%s[%d]", field, i), "%d is not a state; give CONNECTION_STATE_IDLE, _READY, _LEASED, _FINISHING or _CLOSING", s)
		}
	}
	return known
}

func (v *violations) peer(field, peer string) string {
	if peer == "" {
		return ""
	}
	if _, err := listener.ParseSubnet(peer); err != nil {
		v.add(field, "%q is not an address; give an IP address without port or a network such as 192.0.2.0/24", peer)
	}
	return peer
}

// target checks that a Close says what to close, once.
func (v *violations) target(s manager.Selection, all bool) {
	chosen := len(s.IDs) > 0 || len(s.States) > 0 || s.Pool != "" || s.Host != 0 || s.Peer != ""
	switch {
	case chosen && all:
		v.add("all", "contradicts the selection; give one of them")
	case !chosen && !all && len(*v) == 0:
		v.add("selection", "chooses nothing; name connections, states, a pool, a host or a peer, or set all to close every idle and ready connection")
	}
}

func (v *violations) eventKinds(field string, kinds []pb.EventKind) []manager.EventKind {
	var known []manager.EventKind
	for i, k := range kinds {
		if kind, ok := eventKindOf[k]; ok {
			known = append(known, kind)
		} else {
			v.add(fmt.Sprintf("%s[%d]", field, i), "%d is not a kind of event; give values of EventKind, or none for all", k)
		}
	}
	return known
}

func (v *violations) clientOrder(field string, order pb.ClientOrder) manager.ClientOrder {
	switch order {
	case pb.ClientOrder_CLIENT_ORDER_UNSPECIFIED, pb.ClientOrder_CLIENT_ORDER_CONNECTIONS:
		return manager.ByConnections
	case pb.ClientOrder_CLIENT_ORDER_REQUESTS:
		return manager.ByRequests
	case pb.ClientOrder_CLIENT_ORDER_REFUSALS:
		return manager.ByRefusals
	}
	v.add(field, "%d is not an order; give CLIENT_ORDER_CONNECTIONS, _REQUESTS or _REFUSALS", order)
	return manager.ByConnections
}

// pageToken reads the number that pageToken wrote, of at most that many bits.
func (v *violations) pageToken(token string, bits int) uint64 {
	if token == "" {
		return 0
	}
	n, err := strconv.ParseUint(token, 10, bits)
	if err != nil {
		v.add("page_token", "%q is not a token; give the next_page_token of the page before, unchanged", token)
	}
	return n
}
