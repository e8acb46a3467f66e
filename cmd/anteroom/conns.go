package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

// maxPage is the most that the sidecar puts on a page.
const maxPage = 1000

// selectionFlags choose connections.
type selectionFlags struct {
	states []string
	pool   string
	host   uint32
	peer   string
}

func (s *selectionFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&s.states, "state", nil, "only in these states: idle, ready, leased, finishing, closing")
	f.StringVar(&s.pool, "pool", "", "only of this pool")
	f.Uint32Var(&s.host, "host", 0, "only with this host, or with it last (a number, as anteroom hosts shows)")
	f.StringVar(&s.peer, "peer", "", "only from this client: an IP address, or a network such as 192.0.2.0/24")
}

// selection is what the flags and the ids choose; nil if nothing was said.
func (s *selectionFlags) selection(args []string) (*pb.ConnectionSelection, error) {
	chosen := &pb.ConnectionSelection{Pool: s.pool, HostId: s.host, Peer: s.peer}
	for _, word := range s.states {
		state, ok := pb.ConnectionState_value["CONNECTION_STATE_"+strings.ToUpper(word)]
		if !ok || state == 0 {
			return nil, usage("--state: there is no state %q; give idle, ready, leased, finishing or closing", word)
		}
		chosen.States = append(chosen.States, pb.ConnectionState(state))
	}
	var err error
	if chosen.ConnectionIds, err = connectionIDs(args); err != nil {
		return nil, err
	}
	if proto.Size(chosen) == 0 {
		return nil, nil
	}
	return chosen, nil
}

func connectionIDs(args []string) (ids []uint64, err error) {
	for _, arg := range args {
		id, err := connectionID(arg)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func connectionID(arg string) (uint64, error) {
	id, err := strconv.ParseUint(arg, 10, 53)
	if err != nil || id == 0 {
		return 0, usage("%q is no connection's id; anteroom conns shows them", arg)
	}
	return id, nil
}

func connsCommand() *cobra.Command {
	var selected selectionFlags
	var most int
	cmd := operatorCommand(&cobra.Command{
		Use:   "conns",
		Short: "List connections",
		Args:  noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		filter, err := selected.selection(nil)
		if err != nil {
			return err
		}
		all, err := o.connections(ctx, filter, most)
		if err != nil {
			return err
		}
		return o.showConnections(all)
	})
	selected.add(cmd)
	cmd.Flags().IntVar(&most, "limit", 0, "show at most so many; 0 shows all")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return atLeast(cmd, "limit", most, 0, "give 1 or more, or 0 for all")
	}
	return cmd
}

// connections lists page by page, at most so many, 0: all.
func (o *operator) connections(ctx context.Context, filter *pb.ConnectionSelection, most int) (all []*pb.Connection, err error) {
	request := &pb.ListConnectionsRequest{Filter: filter, PageSize: maxPage}
	for {
		page, err := call(ctx, 0, o.ListConnections, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetConnections()...)
		if most > 0 && len(all) >= most {
			return all[:most], nil
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

func (o *operator) showConnections(all []*pb.Connection) error {
	if o.json {
		return listJSON(o.printer, "connections", all)
	}
	t := o.table("ID", "STATE", "POOL", "HOST", "PEER", "REQUESTS", "AGE", "IN STATE", "RTT", "RECEIVED", "SENT", "")
	for _, c := range all {
		t.row(c.GetConnectionId(), stateWord(c), c.GetPool(), hostWord(c.GetHostId(), c.GetHostName()), c.GetPeer(), c.GetRequests(),
			short(c.GetAge()), short(c.GetTimeInState()), rtt(c.GetTcp()), c.GetTcp().GetBytesReceived(), c.GetTcp().GetBytesSent(), flagWords(c))
	}
	return t.end()
}

// listJSON prints messages under one name, empty or not, however many pages they came on.
func listJSON[M proto.Message](p printer, name string, all []M) error {
	list := make([]json.RawMessage, len(all))
	for i, m := range all {
		text, err := marshal(m)
		if err != nil {
			return err
		}
		list[i] = text
	}
	return p.value(map[string][]json.RawMessage{name: list})
}

func stateWord(c *pb.Connection) string { return enumWord(c.GetState(), "CONNECTION_STATE_") }

func hostWord(id uint32, name string) string {
	if id == 0 {
		return "-"
	}
	return strings.TrimSuffix(strconv.FormatUint(uint64(id), 10)+" "+name, " ")
}

func rtt(t *pb.TcpInfo) string {
	if t == nil {
		return "-"
	}
	return short(t.GetRtt())
}

func flagWords(c *pb.Connection) string {
	var words []string
	if c.GetFresh() {
		words = append(words, "fresh")
	}
	if c.GetSticky() {
		words = append(words, "sticky")
	}
	return strings.Join(words, ",")
}

func connCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "conn ID",
		Short: "Show one connection",
		Args:  oneID,
	}, func(ctx context.Context, o *operator, args []string) error {
		id, err := connectionID(args[0])
		if err != nil {
			return err
		}
		answer, err := call(ctx, 0, o.GetConnection, &pb.GetConnectionRequest{ConnectionId: id})
		if err != nil {
			return err
		}
		if o.json {
			return o.message(answer.GetConnection())
		}
		return o.showConnection(answer.GetConnection())
	})
}

func (o *operator) showConnection(c *pb.Connection) error {
	t := o.table("id", c.GetConnectionId())
	t.row("state", stateWord(c), flagWords(c))
	t.row("in state for", short(c.GetTimeInState()))
	t.row("age", short(c.GetAge()))
	t.row("peer", c.GetPeer())
	t.row("listener", c.GetListener())
	t.row("pool", c.GetPool())
	t.row("host", hostWord(c.GetHostId(), c.GetHostName()))
	t.row("requests", c.GetRequests())
	if tcp := c.GetTcp(); tcp != nil {
		t.row("round trip", rtt(tcp))
		t.row("received", tcp.GetBytesReceived(), "bytes")
		t.row("sent", tcp.GetBytesSent(), "bytes acknowledged")
	}
	return t.end()
}
