package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func clientsCommand() *cobra.Command {
	var by, peer string
	var most uint32
	cmd := operatorCommand(&cobra.Command{
		Use:   "clients",
		Short: "List the clients with the most connections, requests or refusals",
		Example: `  anteroom clients
  anteroom clients --by refusals --limit 5
  anteroom clients --peer 192.0.2.0/24`,
		Args: noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		order, ok := pb.ClientOrder_value["CLIENT_ORDER_"+strings.ToUpper(by)]
		if !ok || order == 0 {
			return usage("--by: clients are not sorted by %q; give connections, requests or refusals", by)
		}
		answer, err := call(ctx, 0, o.ListClients, &pb.ListClientsRequest{Order: pb.ClientOrder(order), Limit: most, Peer: peer})
		if err != nil {
			return err
		}
		if o.json {
			return o.message(answer)
		}
		return o.showClients(answer.GetClients())
	})
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if most < 1 || most > maxPage {
			return usage("--limit %d: give 1 to %d", most, maxPage)
		}
		return nil
	}
	f := cmd.Flags()
	f.StringVar(&by, "by", "connections", "what they are sorted by: connections, requests, refusals")
	f.Uint32Var(&most, "limit", 20, "show at most so many, up to 1000")
	f.StringVar(&peer, "peer", "", "only this client: an IP address, or a network such as 192.0.2.0/24")
	return cmd
}

func (o *operator) showClients(all []*pb.Client) error {
	t := o.table("CLIENT", "CONNECTIONS", "REQUESTS", "REFUSALS", "LAST REFUSAL", "AGO")
	for _, c := range all {
		why, ago := "-", "-"
		if c.GetRefusals() > 0 {
			why, ago = enumWord(c.GetLastRefusal(), "CLOSE_REASON_"), short(c.GetSinceRefusal())
		}
		t.row(c.GetAddress(), c.GetConnections(), c.GetRequests(), c.GetRefusals(), why, ago)
	}
	return t.end()
}
