package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// connections is what the control service needs of the manager. Every method may be called from any goroutine, waits for the manager's
// answer no longer than its context allows, and returns manager.ErrStopped once the manager has ended.
type connections interface {
	// Put makes a leased connection idle for timeout, 0: for the limit's time. manager.ErrNotFound, manager.ErrNotLeased.
	Put(ctx context.Context, id manager.ConnID, timeout time.Duration) error
	// Revoke takes leases back and counts them. manager.ErrNotFound, manager.ErrNotLeased if that is true of all.
	Revoke(ctx context.Context, ids []manager.ConnID) (int, error)
	// Stop returns when no lease is left, at the latest after grace.
	Stop(ctx context.Context, grace time.Duration) (manager.StopReport, error)
	// Start is the reverse of Stop, and nothing while running.
	Start(ctx context.Context) error
	// Close begins to close what is selected and counts it. manager.ErrNotFound if ids were given and none exists.
	Close(ctx context.Context, s manager.Selection) (int, error)
	Counts(ctx context.Context) (manager.Counts, error)
	Capacity(ctx context.Context) (manager.Capacity, error)
	// Limits are those in force, none of them zero.
	Limits(ctx context.Context) (manager.Limits, error)
	// SetLimits changes the non-zero fields, all or none, and returns all. *manager.LimitsError.
	SetLimits(ctx context.Context, change manager.Limits) (manager.Limits, error)
	Connections(ctx context.Context, q manager.Query) (manager.Page, error)
	// Connection is one connection. manager.ErrNotFound.
	Connection(ctx context.Context, id manager.ConnID) (manager.Connection, error)
	// Clients are the client addresses with the most of something.
	Clients(ctx context.Context, q manager.ClientQuery) (manager.ClientList, error)
	// Watch delivers events of these kinds (none: of all) from its return on; buffer of them may wait for the reader.
	Watch(buffer int, kinds ...manager.EventKind) eventSource
}

// eventSource delivers events until Close is called or the manager ends; then the channel is closed.
type eventSource interface {
	Events() <-chan manager.Event
	// Err is why the channel is closed: manager.ErrStopped or manager.ErrReplaced; nil after Close.
	Err() error
	Close()
}

// service answers operators' calls. Errors leave it as they come from the manager; failure.go turns them into gRPC's.
type service struct {
	pb.UnimplementedConnectionManagerServiceServer
	connections connections
	upgrade     replacing
	reload      replacing
	watches     chan struct{} // one token for each open watch
}

// replacing has another process take over from this one.
type replacing func(context.Context) (Replacement, error)

func newService(c connections, upgrade, reload replacing) *service {
	return &service{connections: c, upgrade: upgrade, reload: reload, watches: make(chan struct{}, maxWatches)}
}

// maxIDsTold is how many ids the error of a call names.
const maxIDsTold = 8

// about names the connections that an error concerns.
func about(err error, ids ...uint64) error {
	if !errors.Is(err, manager.ErrNotFound) && !errors.Is(err, manager.ErrNotLeased) || len(ids) == 0 {
		return err
	}
	var names []string
	for _, id := range ids[:min(len(ids), maxIDsTold)] {
		names = append(names, strconv.FormatUint(id, 10))
	}
	what := "connection "
	if len(ids) > 1 {
		what = "connections "
	}
	if more := len(ids) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%s%s: %w", what, strings.Join(names, ", "), err)
}

// The calls, as the contract describes them.

// Put speaks for a host that has gone astray.
func (s *service) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	var bad violations
	timeout := bad.timeout("keep_alive_timeout", r.KeepAliveTimeout)
	if err := bad.err(); err != nil {
		return nil, err
	}
	return &pb.PutResponse{}, about(s.connections.Put(ctx, manager.ConnID(r.ConnectionId), timeout), r.ConnectionId)
}

// Revoke ends leases that their hosts do not answer.
func (s *service) Revoke(ctx context.Context, r *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	var bad violations
	ids := bad.connectionIDs("connection_ids", r.ConnectionIds)
	if len(r.ConnectionIds) == 0 {
		bad.add("connection_ids", "names nothing; give the ids of leased connections")
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	n, err := s.connections.Revoke(ctx, ids)
	return &pb.RevokeResponse{Revoked: uint32(n)}, about(err, r.ConnectionIds...)
}

// Upgrade returns when a new process serves.
func (s *service) Upgrade(ctx context.Context, _ *pb.UpgradeRequest) (*pb.UpgradeResponse, error) {
	r, err := s.upgrade(ctx)
	return &pb.UpgradeResponse{Pid: int32(r.PID)}, err
}

// Reload returns when a new process serves with the configuration as it is now.
func (s *service) Reload(ctx context.Context, _ *pb.ReloadRequest) (*pb.ReloadResponse, error) {
	r, err := s.reload(ctx)
	answer := &pb.ReloadResponse{Pid: int32(r.PID)}
	for _, c := range r.Changes {
		answer.Changes = append(answer.Changes, &pb.SettingChange{Key: c.Key, Before: c.Before, Now: c.Now})
	}
	return answer, err
}

// Stop waits until no lease is left.
func (s *service) Stop(ctx context.Context, r *pb.StopRequest) (*pb.StopResponse, error) {
	var bad violations
	grace := bad.grace("grace", r.Grace)
	if err := bad.err(); err != nil {
		return nil, err
	}
	report, err := s.connections.Stop(ctx, grace)
	return &pb.StopResponse{Finished: uint32(report.Finished), Cut: uint32(report.Cut)}, err
}

// Start undoes Stop.
func (s *service) Start(ctx context.Context, _ *pb.StartRequest) (*pb.StartResponse, error) {
	return &pb.StartResponse{}, s.connections.Start(ctx)
}

// Close closes what is selected, or all that is monitored if the request says so.
func (s *service) Close(ctx context.Context, r *pb.CloseRequest) (*pb.CloseResponse, error) {
	var bad violations
	selection := bad.selection("selection", r.Selection)
	bad.target(selection, r.All)
	if err := bad.err(); err != nil {
		return nil, err
	}
	n, err := s.connections.Close(ctx, selection)
	return &pb.CloseResponse{Closed: uint32(n)}, about(err, r.GetSelection().GetConnectionIds()...)
}

// GetConnectionCounts answers with one moment's counts.
func (s *service) GetConnectionCounts(ctx context.Context, _ *pb.GetConnectionCountsRequest) (*pb.GetConnectionCountsResponse, error) {
	counts, err := s.connections.Counts(ctx)
	if err != nil {
		return nil, err
	}
	return countsMessage(counts), nil
}

// GetKeepAliveCapacity answers whether one more connection may be kept.
func (s *service) GetKeepAliveCapacity(ctx context.Context, _ *pb.GetKeepAliveCapacityRequest) (*pb.GetKeepAliveCapacityResponse, error) {
	c, err := s.connections.Capacity(ctx)
	return &pb.GetKeepAliveCapacityResponse{Limit: uint32(max(c.Limit, 0)), InUse: uint32(c.InUse), CanAdd: c.CanAdd}, err
}

// SetLimits changes the limits that the request names, all or none.
func (s *service) SetLimits(ctx context.Context, r *pb.SetLimitsRequest) (*pb.SetLimitsResponse, error) {
	change, err := limitsOf(r.GetLimits())
	if err != nil {
		return nil, err
	}
	limits, err := s.connections.SetLimits(ctx, change)
	if err != nil {
		return nil, err
	}
	return &pb.SetLimitsResponse{Limits: limitsMessage(limits)}, nil
}

// GetLimits answers with the limits in force.
func (s *service) GetLimits(ctx context.Context, _ *pb.GetLimitsRequest) (*pb.GetLimitsResponse, error) {
	limits, err := s.connections.Limits(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.GetLimitsResponse{Limits: limitsMessage(limits)}, nil
}

// ListConnections answers with a page of connections; the token of a page is the last id on it.
func (s *service) ListConnections(ctx context.Context, r *pb.ListConnectionsRequest) (*pb.ListConnectionsResponse, error) {
	var bad violations
	query := manager.Query{
		Selection: bad.selection("filter", r.Filter),
		After:     manager.ConnID(bad.pageToken(r.PageToken, 64)),
		Limit:     int(min(r.PageSize, manager.MaxPage)),
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	page, err := s.connections.Connections(ctx, query)
	if err != nil {
		return nil, err
	}
	return &pb.ListConnectionsResponse{
		Connections:   messages(page.Connections, connectionMessage),
		NextPageToken: pageToken(uint64(page.Next)),
	}, nil
}

// GetConnection answers with one connection.
func (s *service) GetConnection(ctx context.Context, r *pb.GetConnectionRequest) (*pb.GetConnectionResponse, error) {
	c, err := s.connections.Connection(ctx, manager.ConnID(r.ConnectionId))
	if err != nil {
		return nil, about(err, r.ConnectionId)
	}
	return &pb.GetConnectionResponse{Connection: connectionMessage(&c)}, nil
}

// ListHosts answers with a page of hosts; the token of a page is the last number on it.
func (s *service) ListHosts(ctx context.Context, r *pb.ListHostsRequest) (*pb.ListHostsResponse, error) {
	var bad violations
	after := manager.HostID(bad.pageToken(r.PageToken, 32))
	if err := bad.err(); err != nil {
		return nil, err
	}
	counts, err := s.connections.Counts(ctx)
	if err != nil {
		return nil, err
	}
	page, next := hostPage(counts.Hosts, after, int(min(r.PageSize, manager.MaxPage)))
	return &pb.ListHostsResponse{Hosts: messages(page, hostMessage), NextPageToken: pageToken(uint64(next))}, nil
}

// ListClients answers with the clients that have the most of something.
func (s *service) ListClients(ctx context.Context, r *pb.ListClientsRequest) (*pb.ListClientsResponse, error) {
	var bad violations
	query := manager.ClientQuery{
		Order: bad.clientOrder("order", r.Order), Peer: bad.peer("peer", r.Peer), Limit: int(min(r.Limit, manager.MaxPage)),
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	list, err := s.connections.Clients(ctx, query)
	if err != nil {
		return nil, err
	}
	return &pb.ListClientsResponse{Clients: messages(list.Clients, clientMessage), Found: uint32(list.Known)}, nil
}

// hostPage is the size hosts (0: the default) that attached next after the one numbered after, and the number to go on from, 0 at the end.
func hostPage(hosts []manager.HostInfo, after manager.HostID, size int) (page []manager.HostInfo, next manager.HostID) {
	if size == 0 {
		size = manager.DefaultPage
	}
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b manager.HostInfo) int { return int(int64(a.ID) - int64(b.ID)) })
	first := slices.IndexFunc(hosts, func(h manager.HostInfo) bool { return h.ID > after })
	if first < 0 {
		return nil, 0
	}
	if hosts = hosts[first:]; len(hosts) <= size {
		return hosts, 0
	}
	return hosts[:size], hosts[size-1].ID
}

func pageToken(next uint64) string {
	if next == 0 {
		return ""
	}
	return strconv.FormatUint(next, 10)
}
