package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func statusCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "status",
		Short: "Show how many connections are where, and the keep-alive capacity",
		Args:  noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		counts, err := call(ctx, 0, o.GetConnectionCounts, &pb.GetConnectionCountsRequest{})
		if err != nil {
			return err
		}
		capacity, err := call(ctx, 0, o.GetKeepAliveCapacity, &pb.GetKeepAliveCapacityRequest{})
		if err != nil {
			return err
		}
		if o.json {
			return o.statusJSON(counts, capacity)
		}
		return o.statusTables(counts, capacity)
	})
}

func (o *operator) statusJSON(counts *pb.GetConnectionCountsResponse, capacity *pb.GetKeepAliveCapacityResponse) error {
	var both struct {
		Counts   json.RawMessage `json:"counts"`
		Capacity json.RawMessage `json:"capacity"`
	}
	var err error
	if both.Counts, err = marshal(counts); err != nil {
		return err
	}
	if both.Capacity, err = marshal(capacity); err != nil {
		return err
	}
	return o.value(both)
}

func (o *operator) statusTables(c *pb.GetConnectionCountsResponse, k *pb.GetKeepAliveCapacityResponse) error {
	fmt.Fprintf(o.out, "%s, up %s", condition(c), short(c.GetUptime()))
	if n := c.GetSuccessions(); n > 0 {
		fmt.Fprintf(o.out, ", %s", counted(n, "succession"))
	}
	fmt.Fprintln(o.out)
	s := c.GetStates()
	fmt.Fprintf(o.out, "connections: %d idle, %d ready, %d leased, %d finishing, %d closing\n",
		s.GetIdle(), s.GetReady(), s.GetLeased(), s.GetFinishing(), s.GetClosing())
	fmt.Fprintf(o.out, "kept between requests: %d of %d, one more may be added: %s\n", k.GetInUse(), k.GetLimit(), yesNo(k.GetCanAdd()))
	t := c.GetTotals()
	fmt.Fprintf(o.out, "since the start: %d accepted, %d adopted, %d leases, %d puts, %d requests, %d redelivered\n",
		t.GetAccepted(), t.GetAdopted(), t.GetLeases(), t.GetPuts(), t.GetRequests(), t.GetRedelivered())
	fmt.Fprintf(o.out, "closed: %s\n", closedReasons(t.GetClosed()))
	return firstError(o.listenerTable(c.GetListeners()), o.poolTable(c.GetPools()), o.busyTable(c.GetHosts()))
}

// condition says whether requests are served and, if they are not, which pools' are not.
func condition(c *pb.GetConnectionCountsResponse) string {
	if !c.GetRunning() || c.GetState() == pb.ServiceState_SERVICE_STATE_SERVING {
		return serviceWord(c.GetState())
	}
	return "not serving: " + unserved(c.GetPools())
}

// unserved says which pools keep the whole from serving: those that listeners feed or, if there is
// no listener, all.
func unserved(pools []*pb.PoolCounts) string {
	isFed := func(p *pb.PoolCounts) bool { return p.GetFed() }
	anyFed := slices.ContainsFunc(pools, isFed)
	var parts []string
	for _, p := range pools {
		if p.GetState() != pb.ServiceState_SERVICE_STATE_SERVING && p.GetFed() == anyFed {
			parts = append(parts, poolWords(p))
		}
	}
	if pools == nil {
		return "no host is attached"
	}
	return strings.Join(parts, "; ")
}

func poolWords(p *pb.PoolCounts) string {
	if p.GetState() == pb.ServiceState_SERVICE_STATE_NO_HOST {
		return "pool " + p.GetName() + " has no host"
	}
	return "pool " + p.GetName() + " is " + serviceWord(p.GetState())
}

func serviceWord(s pb.ServiceState) string { return enumWord(s, "SERVICE_STATE_") }

func closedReasons(counts []*pb.ClosedCount) string {
	var parts []string
	for _, c := range counts {
		if c.GetCount() > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.GetCount(), enumWord(c.GetReason(), "CLOSE_REASON_")))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (o *operator) listenerTable(listeners []*pb.ListenerCounts) error {
	if len(listeners) == 0 {
		return nil
	}
	fmt.Fprintln(o.out)
	t := o.table("LISTENER", "ADDRESS", "POOL", "STATE", "ACCEPTED", "IDLE", "READY", "LEASED", "FINISHING", "CLOSING", "")
	for _, l := range listeners {
		s := l.GetStates()
		note := ""
		if l.GetPaused() {
			note = "paused"
		}
		t.row(l.GetName(), l.GetAddress(), l.GetPool(), serviceWord(l.GetState()), l.GetAccepted(),
			s.GetIdle(), s.GetReady(), s.GetLeased(), s.GetFinishing(), s.GetClosing(), note)
	}
	return t.end()
}

func (o *operator) poolTable(pools []*pb.PoolCounts) error {
	if len(pools) == 0 {
		return nil
	}
	fmt.Fprintln(o.out)
	t := o.table("POOL", "STATE", "HOSTS", "IDLE", "READY", "LEASED", "FINISHING", "CLOSING")
	for _, p := range pools {
		s := p.GetStates()
		t.row(p.GetName(), serviceWord(p.GetState()), p.GetHosts(), s.GetIdle(), s.GetReady(), s.GetLeased(), s.GetFinishing(), s.GetClosing())
	}
	return t.end()
}

func (o *operator) busyTable(hosts []*pb.HostCounts) error {
	if len(hosts) == 0 {
		return nil
	}
	fmt.Fprintln(o.out)
	t := o.table("HOST", "NAME", "POOL", "STATE", "LEASED", "CAPACITY")
	for _, h := range hosts {
		t.row(h.GetHostId(), h.GetName(), h.GetPool(), serviceWord(h.GetState()), h.GetLeased(), h.GetCapacity())
	}
	return t.end()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
