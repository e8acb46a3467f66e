//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func TestKeepAlive(t *testing.T) {
	const clients, requests = 20, 25
	p := up(t, 2)
	connected := make([]*client, clients)
	failed := make(chan error, clients)
	for i := range connected {
		connected[i] = p.dial()
		go func() { failed <- browse(connected[i], i, requests) }()
	}
	for range connected {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}

	counts := p.awaitCounts(func(c *pb.GetConnectionCountsResponse) error {
		if got := c.Totals.Requests; got != clients*requests || c.States.Idle != clients {
			return fmt.Errorf("%d requests are counted, the states are {%v}; want %d requests, %d idle", got, c.States, clients*requests, clients)
		}
		return nil
	})
	checkKept(t, counts, clients)
	for _, h := range p.hosts() {
		if h.Leases == 0 || h.Leased != 0 {
			t.Errorf("host %s had %d leases and has %d; want some and none", h.Name, h.Leases, h.Leased)
		}
	}

	for _, c := range connected {
		c.hangUp()
	}
	p.awaitStates(0, 0, 0)
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_HUNG_UP, clients)
}

// browse has a client send requests of its own, each once the last is answered, all seen by the app as from the same address.
func browse(c *client, name, requests int) error {
	first, err := c.greet()
	for i := 1; err == nil && i < requests-1; i++ {
		err = c.echo(fmt.Sprintf("request %d of client %d", i, name))
	}
	if err != nil {
		return err
	}
	last, err := c.greet()
	if err == nil && last.Client != first.Client {
		err = fmt.Errorf("the client was %s and is now %s", first.Client, last.Client)
	}
	return err
}

// checkKept checks that everything was done over that many connections, and that every way of counting them says so.
func checkKept(t *testing.T, counts *pb.GetConnectionCountsResponse, connections uint32) {
	t.Helper()
	if !counts.Running || counts.Uptime.AsDuration() <= 0 {
		t.Errorf("running is %v, uptime %v", counts.Running, counts.Uptime.AsDuration())
	}
	if totals := counts.Totals; totals.Accepted != uint64(connections) || totals.Leases < totals.Puts {
		t.Errorf("the totals are {%v}; want %d accepted", totals, connections)
	}
	byListener, byPool := uint32(0), uint32(0)
	for _, l := range counts.Listeners {
		byListener += l.States.Idle
	}
	for _, to := range counts.Pools {
		byPool += to.States.Idle
	}
	if byListener != connections || byPool != connections {
		t.Errorf("idle are %d by listener and %d by pool; want %d", byListener, byPool, connections)
	}
}

func TestAppHasNoNetwork(t *testing.T) {
	p := up(t, 1)
	interfaces := p.compose("exec", "-T", "app", "python3", "-c", "import socket; print(*(name for _, name in socket.if_nameindex()))")
	if interfaces != "lo\n" {
		t.Fatalf("the app has the network interfaces %q; want lo alone", interfaces)
	}
	g := p.greet(p.dial())
	p.awaitStates(1, 0, 0)
	seen := p.connections(pb.ConnectionState_CONNECTION_STATE_IDLE)
	if len(seen) != 1 || seen[0].Peer != g.Client {
		t.Errorf("the app sees %s, the sidecar %v; want the same client", g.Client, seen)
	}
}

// One application container after the other is replaced. Clients keep the connection that they had from the start, and are served by whichever
// container is there.
func TestRollingRestart(t *testing.T) {
	const kept = 4
	p := up(t, 2)
	clients, _ := p.greeted(kept)
	for _, id := range p.containers("app") {
		p.awaitStates(kept, 0, 0)
		p.docker("stop", id)
		for _, c := range clients {
			if g := p.greet(c); strings.HasPrefix(id, g.Host) {
				t.Errorf("served by %s, which is stopped", g.Host)
			}
		}
		p.docker("start", id)
		p.awaitHosts(2)
	}
	if accepted := p.counts().Totals.Accepted; accepted != kept {
		t.Errorf("%d connections were accepted; want %d", accepted, kept)
	}
}

// The same while clients ask without pause: each request is answered. cheroot says "Connection: close" in what it answers while it stops; that is
// the only reason why a client may have to connect again.
func TestRestartUnderLoad(t *testing.T) {
	p := up(t, 2)
	visitors := p.visitors(8)
	for _, id := range p.containers("app") {
		p.docker("restart", id)
		p.awaitHosts(2)
	}
	p.eventually(func() error {
		for i, v := range visitors.all {
			if hosts := v.servedBy(); len(hosts) < 2 && v.lost.Load() == nil {
				return fmt.Errorf("visitor %d was served by %v; want both containers", i, hosts)
			}
		}
		return nil
	})
	visitors.leave()
	for i, v := range visitors.all {
		if why := v.lost.Load(); why != nil {
			t.Errorf("visitor %d, served by %v, got no answer: %v", i, v.servedBy(), *why)
		}
	}
}

// visitors are clients that ask again and again until they leave.
type visitors struct {
	all   []*visitor
	ended chan struct{}
	wait  sync.WaitGroup
}

type visitor struct {
	p      *project
	client *client
	lost   atomic.Pointer[error] // why a request got no answer

	mu    sync.Mutex
	hosts []string // that served it
}

func (p *project) visitors(n int) *visitors {
	p.t.Helper()
	all := &visitors{ended: make(chan struct{})}
	p.t.Cleanup(all.leave)
	for range n {
		v := &visitor{p: p, client: p.dial()}
		all.all = append(all.all, v)
		all.wait.Go(func() {
			if err := v.stay(all.ended); err != nil {
				v.lost.Store(&err)
			}
			v.client.hangUp()
		})
	}
	return all
}

// leave may be called again.
func (v *visitors) leave() {
	select {
	case <-v.ended:
	default:
		close(v.ended)
	}
	v.wait.Wait()
}

// stay asks a hundred times a second at most.
func (v *visitor) stay(ended <-chan struct{}) error {
	breath := time.NewTicker(10 * time.Millisecond)
	defer breath.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-breath.C:
		}
		if err := v.ask(); err != nil {
			return err
		}
	}
}

func (v *visitor) ask() error {
	if err := v.client.send("GET", "/", ""); err != nil {
		return err
	}
	a, err := v.client.receive()
	if err != nil {
		return err
	}
	g, err := a.greeting()
	if err != nil {
		return err
	}
	v.note(g.Host)
	if a.last {
		v.client.hangUp()
		v.client, err = v.p.connect()
	}
	return err
}

func (v *visitor) note(host string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Contains(v.hosts, host) {
		v.hosts = append(v.hosts, host)
	}
}

func (v *visitor) servedBy() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.hosts)
}

// The only application container is killed. Idle clients notice nothing: what they ask meanwhile waits for the container's next life. Only the
// request that the application had read is lost: the sidecar says so, and ends its connection.
func TestAppKilled(t *testing.T) {
	const kept = 12
	p := up(t, 1)
	clients, _ := p.greeted(kept)
	p.awaitStates(kept, 0, 0)
	before := p.connections(pb.ConnectionState_CONNECTION_STATE_IDLE)
	unlucky := p.dial()
	p.ok(unlucky.send("GET", "/slow?seconds=60", ""))
	p.awaitStates(kept, 0, 1)

	app := p.containers("app")[0]
	p.docker("kill", "--signal", "KILL", app)
	if a, err := unlucky.receive(); err != nil || a.status != http.StatusBadGateway || !a.last {
		t.Errorf("the request that the application had is answered with %+v, %v", a, err)
	}
	p.mustEnd(unlucky)
	p.awaitHosts(0)
	p.awaitHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	for _, c := range clients {
		p.ok(c.send("GET", "/", ""))
	}
	p.awaitStates(0, kept, 0)
	p.docker("start", app)
	for _, c := range clients {
		_, err := c.receiveGreeting()
		p.ok(err)
	}
	p.awaitHealth(healthpb.HealthCheckResponse_SERVING)
	p.awaitStates(kept, 0, 0)

	checkSurvived(t, before, p.connections(pb.ConnectionState_CONNECTION_STATE_IDLE))
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_HOST_GONE, 1)
}

// checkSurvived checks that the same connections have had one request of one host before, and another of another after.
func checkSurvived(t *testing.T, before, after []*pb.Connection) {
	t.Helper()
	if len(after) != len(before) {
		t.Fatalf("%d connections have survived; want %d", len(after), len(before))
	}
	for i, c := range after {
		was := before[i]
		if c.ConnectionId != was.ConnectionId || c.Peer != was.Peer || c.HostId == was.HostId || was.Requests != 1 || c.Requests != 2 {
			t.Errorf("the connection was {%v} and is {%v}; want the same one, with another host and one more request", was, c)
		}
	}
}

// A killed sidecar takes its connections along. What it leaves, its sockets' names in the volume, is in nobody's way, and the application
// comes back to it by itself.
func TestSidecarKilled(t *testing.T) {
	p := up(t, 1)
	before := p.greet(p.dial())
	sidecar := p.containers("sidecar")[0]
	p.docker("kill", "--signal", "KILL", sidecar)
	p.docker("start", sidecar)
	p.findAddress()
	p.awaitHosts(1)
	if after := p.greet(p.dial()); after.Host != before.Host {
		t.Errorf("the app is %s; want %s as before", after.Host, before.Host)
	}
	if app := p.containers("app")[0]; p.docker("inspect", "--format", "{{.RestartCount}}", app) != "0\n" {
		t.Error("the app was restarted; want it to reconnect")
	}
}
