package main

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func hostsCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "hosts",
		Short: "List the attached hosts",
		Args:  noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		all, err := o.hosts(ctx)
		if err != nil {
			return err
		}
		if o.json {
			return listJSON(o.printer, "hosts", all)
		}
		return o.showHosts(all)
	})
}

func (o *operator) hosts(ctx context.Context) (all []*pb.Host, err error) {
	request := &pb.ListHostsRequest{PageSize: maxPage}
	for {
		page, err := call(ctx, 0, o.ListHosts, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetHosts()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all, nil
		}
	}
}

func (o *operator) showHosts(all []*pb.Host) error {
	t := o.table("HOST", "NAME", "POOL", "STATE", "LEASED", "CAPACITY", "LEASES", "NACKS", "STALE", "VIOLATIONS", "ATTACHED", "PID", "UID", "AGENT")
	for _, h := range all {
		t.row(h.GetHostId(), h.GetName(), h.GetPool(), serviceWord(h.GetState()), h.GetLeased(), h.GetCapacity(),
			h.GetLeases(), h.GetNacks(), h.GetStale(), h.GetViolations(), short(h.GetAttached()), h.GetPid(), h.GetUid(), h.GetAgent())
	}
	return t.end()
}
