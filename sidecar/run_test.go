package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/sidecar/certtest"
)

// running is a sidecar of a test.
type running struct {
	config    Config
	listening []listener.Address
	stop      context.CancelFunc
	abort     chan struct{}
	ended     chan error
	log       *logged
}

// logged collects a log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs a sidecar with a listener of its own and private sockets, and ends it with the test.
func start(t *testing.T, change func(*Config)) *running {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{stop: cancel, abort: make(chan struct{}), ended: make(chan error, 1), log: new(logged)}
	ready := make(chan struct{})
	r.config = Config{
		Listen:       []Listen{{Address: parsed(t, "tcp://127.0.0.1:0"), Name: "test"}},
		Handoff:      parsed(t, "unix://"+folder+"/handoff.sock"),
		Control:      parsed(t, "unix://"+folder+"/control.sock"),
		Logger:       hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Debug}),
		DrainTimeout: 10 * time.Second,
		Abort:        r.abort,
		OnReady: func(listening []listener.Address) {
			r.listening = listening
			close(ready)
		},
	}
	if change != nil {
		change(&r.config)
	}
	go func() { r.ended <- Run(ctx, r.config) }()
	select {
	case <-ready:
	case err := <-r.ended:
		cancel()
		t.Fatalf("the sidecar did not start: %v\n%s", err, r.log)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("the sidecar ended with %v\n%s", err, r.log)
		}
	})
	return r
}

// end ends the sidecar and returns what Run returned.
func (r *running) end() error {
	r.stop()
	err := <-r.ended
	r.ended <- nil // for the cleanup
	return err
}

func (r *running) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return dial(t, "unix://"+r.config.Control.Path, insecure.NewCredentials())
}

func dial(t *testing.T, target string, creds grpccredentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// attach runs a host with a handler until the test ends, and returns once requests are served.
func (r *running) attach(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- host.Serve(ctx, &http.Server{Handler: handler}, host.Options{
			Path: r.config.Handoff.Path, Name: "app", Pool: "default", Grace: time.Second, Logger: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Logf("the host: %v", err) // a handler that a test holds is cut at the end
		}
	})
	r.await(t, healthpb.HealthCheckResponse_SERVING)
}

// await follows the health service until it says so.
func (r *running) await(t *testing.T, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := healthpb.NewHealthClient(r.dial(t)).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("waiting for %v: %v", want, err)
		}
		if answer.GetStatus() == want {
			return
		}
	}
}

func (r *running) url() string {
	return "http://" + strings.TrimPrefix(r.listening[0].String(), "tcp://")
}

// browser is a client with connections of its own.
func browser(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// The line that says started has addresses as the configuration writes them, in JSON too.
func TestTheLineAtTheStart(t *testing.T) {
	log := new(logged)
	r := start(t, func(c *Config) {
		c.ControlOff = true
		c.Listen = append(c.Listen, Listen{Address: parsed(t, "tcp://127.0.0.1:0")})
		c.Logger = plainLogger{hclog.New(&hclog.LoggerOptions{Output: log, JSONFormat: true})}
	})
	for text := range strings.Lines(log.String()) {
		var line struct {
			Message string   `json:"@message"`
			Listen  []string `json:"listen"`
			Handoff string   `json:"handoff"`
			Control string   `json:"control"`
		}
		if !strings.Contains(text, `"started"`) {
			continue
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if !slices.Equal(line.Listen, texts(r.listening)) || line.Handoff != r.config.Handoff.String() || line.Control != "none" {
			t.Errorf("%s", text)
		}
		return
	}
	t.Errorf("no line says started:\n%s", log)
}

func TestAConnectionsLifeThroughTheContract(t *testing.T) {
	r := start(t, nil)
	conn := r.dial(t)
	client := pb.NewConnectionManagerServiceClient(conn)
	r.attach(t, hello)
	watch, err := client.Watch(t.Context(), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	user := browser(t)
	for range 2 {
		if got := get(t, user, r.url()); got != "hello" {
			t.Fatalf("answer %q", got)
		}
	}
	wantEvents(t, watch, pb.EventKind_EVENT_KIND_ACCEPTED, pb.EventKind_EVENT_KIND_LEASED, pb.EventKind_EVENT_KIND_PUT,
		pb.EventKind_EVENT_KIND_LEASED, pb.EventKind_EVENT_KIND_PUT)

	list, err := client.ListConnections(t.Context(), &pb.ListConnectionsRequest{Filter: &pb.ConnectionSelection{Peer: "127.0.0.0/8"}})
	if err != nil || len(list.GetConnections()) != 1 {
		t.Fatalf("%v (%v), want one connection", list, err)
	}
	c := list.GetConnections()[0]
	if c.GetState() != pb.ConnectionState_CONNECTION_STATE_IDLE || c.GetRequests() != 2 || c.GetHostName() != "app" || c.GetPool() != "default" ||
		c.GetTcp().GetBytesReceived() == 0 || !strings.HasPrefix(c.GetPeer(), "127.0.0.1:") {
		t.Errorf("connection: %v", c)
	}
	if _, err := client.Put(t.Context(), &pb.PutRequest{ConnectionId: c.GetConnectionId()}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("put of an idle connection: %v, want FAILED_PRECONDITION", err)
	}
	if closed, err := client.Close(t.Context(), &pb.CloseRequest{All: true}); err != nil || closed.GetClosed() != 1 {
		t.Errorf("close: %v (%v)", closed, err)
	}
	e := wantEvents(t, watch, pb.EventKind_EVENT_KIND_CLOSED)
	if e.GetReason() != pb.CloseReason_CLOSE_REASON_OPERATOR || e.GetConnectionId() != c.GetConnectionId() {
		t.Errorf("event %v", e)
	}
	for _, err := range []error{
		second(client.GetConnection(t.Context(), &pb.GetConnectionRequest{ConnectionId: 1})),
		second(client.Put(t.Context(), &pb.PutRequest{ConnectionId: 1})),
		second(client.Close(t.Context(), &pb.CloseRequest{Selection: &pb.ConnectionSelection{ConnectionIds: []uint64{1}}})),
	} {
		if status.Code(err) != codes.NotFound {
			t.Errorf("unknown id: %v, want NOT_FOUND", err)
		}
	}
}

func second[A any](_ A, err error) error { return err }

// wantEvents reads events and returns the last.
func wantEvents(t *testing.T, stream grpc.ServerStreamingClient[pb.WatchResponse], kinds ...pb.EventKind) (e *pb.Event) {
	t.Helper()
	for _, want := range kinds {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e = answer.GetEvent(); e.GetKind() != want {
			t.Fatalf("event %v, want %v", e, want)
		}
	}
	return e
}

func TestStopAndStartAndHealth(t *testing.T) {
	r := start(t, nil)
	client := pb.NewConnectionManagerServiceClient(r.dial(t))
	r.await(t, healthpb.HealthCheckResponse_NOT_SERVING)
	entered, leave := make(chan struct{}), make(chan struct{})
	r.attach(t, func(w http.ResponseWriter, q *http.Request) {
		close(entered)
		<-leave
		hello(w, q)
	})
	answered := make(chan string, 1)
	user := browser(t)
	go func() { answered <- get(t, user, r.url()) }()
	<-entered
	stopped := make(chan *pb.StopResponse, 1)
	go func() {
		report, err := client.Stop(context.Background(), &pb.StopRequest{Grace: durationpb.New(10 * time.Second)})
		if err != nil {
			t.Error(err)
		}
		stopped <- report
	}()
	r.await(t, healthpb.HealthCheckResponse_NOT_SERVING)
	close(leave)
	if got := <-answered; got != "hello" {
		t.Errorf("answer %q", got)
	}
	if report := <-stopped; report.GetFinished() != 1 || report.GetCut() != 0 {
		t.Errorf("report %v", report)
	}
	if _, err := client.Start(t.Context(), &pb.StartRequest{}); err != nil {
		t.Error(err)
	}
	r.await(t, healthpb.HealthCheckResponse_SERVING)
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	r := start(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	r.attach(t, func(w http.ResponseWriter, q *http.Request) {
		close(entered)
		<-leave
		hello(w, q)
	})
	answered := make(chan string, 1)
	user := browser(t)
	go func() { answered <- get(t, user, r.url()) }()
	<-entered
	r.stop()
	r.await(t, healthpb.HealthCheckResponse_NOT_SERVING) // operators can look on while it drains
	close(leave)
	if got := <-answered; got != "hello" {
		t.Errorf("answer %q", got)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, path := range []string{r.config.Handoff.Path, r.config.Control.Path} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestAbortCutsTheDrain(t *testing.T) {
	r := start(t, func(c *Config) { c.DrainTimeout = time.Hour })
	entered, leave := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(leave) })
	r.attach(t, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-leave
	})
	cut := make(chan error, 1)
	user := browser(t)
	go func() {
		answer, err := user.Get(r.url())
		if err == nil {
			answer.Body.Close()
		}
		cut <- err
	}()
	<-entered
	r.stop()
	close(r.abort)
	if err := r.end(); !errors.Is(err, ErrAborted) {
		t.Errorf("Run: %v, want ErrAborted", err)
	}
	if err := <-cut; err == nil {
		t.Error("a request that was cut got an answer")
	}
}

func TestRunRefusesMistakes(t *testing.T) {
	err := Run(t.Context(), Config{LogLevel: "loud", DrainTimeout: -1})
	if m, _ := errors.AsType[Mistakes](err); len(m) != 2 {
		t.Errorf("%v, want two mistakes", err)
	}
}

func TestSocketsInUseAreAllReported(t *testing.T) {
	r := start(t, nil)
	again := r.config
	again.Listen = []Listen{{Address: r.listening[0]}}
	err := Run(t.Context(), again)
	if !errors.Is(err, listener.ErrInUse) {
		t.Fatalf("%v, want ErrInUse", err)
	}
	for _, key := range []string{"handoff: ", "control: ", "listen: "} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not spoken of: %v", key, err)
		}
	}
	if _, err := os.Stat(r.config.Handoff.Path); err != nil {
		t.Errorf("the running sidecar lost its socket: %v", err)
	}
}

func TestTheRunDirectoryIsPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for _, c := range []struct {
		allow Peers
		want  os.FileMode
	}{{Peers{}, 0o700}, {Peers{UIDs: []uint32{1000}}, 0o711}} {
		r := start(t, func(config *Config) { config.HandoffAllow = c.allow })
		info, err := os.Stat(filepath.Dir(r.config.Handoff.Path))
		if err != nil || info.Mode().Perm() != c.want {
			t.Errorf("%v (%v), want %v", info.Mode(), err, c.want)
		}
	}
}

func TestStrangersAreHungUpOn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	const stranger = 54321
	for _, c := range []struct {
		name  string
		mode  os.FileMode
		allow Peers
		want  string
	}{
		{"stranger", 0o666, Peers{}, "refused"},
		{"allowed user", 0, Peers{UIDs: []uint32{stranger}}, "let in"},
		{"allowed group", 0, Peers{GIDs: []uint32{stranger + 1}}, "let in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { // for others to pass through
				t.Fatal(err)
			}
			r := start(t, func(config *Config) {
				config.Control, config.ControlMode, config.ControlAllow = parsed(t, "unix://"+folder+"/control.sock"), c.mode, c.allow
			})
			if got := dialAs(t, stranger, r.config.Control.Path); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if refused := strings.Contains(r.log.String(), "user 54321 (group 54322) is not allowed"); refused != (c.want == "refused") {
				t.Errorf("the log speaks of a refusal: %v", refused)
			}
		})
	}
}

// dialAs connects to the path as another user, whose group is the next number. gRPC's server greets who is let in.
func dialAs(t *testing.T, uid uint32, path string) string {
	t.Helper()
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(filepath.Dir(path), "stranger") // where the other user can run it
	if err := os.WriteFile(copied, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied)
	cmd.Env = append(os.Environ(), dialVariable+"="+path, "GORACE=atexit_sleep_ms=0") // which is a second otherwise
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestMetricsAreServed(t *testing.T) {
	r := start(t, func(c *Config) {
		c.Metrics = parsed(t, "unix://"+filepath.Join(filepath.Dir(filepath.Dir(c.Control.Path)), "metrics.sock"))
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.config.Metrics.Path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	if got := get(t, client, "http://sidecar/metrics"); !strings.Contains(got, `anteroom_listener_accepted_total{listener="test",pool="default"} 0`) {
		t.Errorf("metrics: %s", got)
	}
	if got := get(t, client, "http://sidecar/readyz"); !strings.Contains(got, "not serving") {
		t.Errorf("ready: %s", got)
	}
}

// wantTooLarge reads an answer that comes though the request's body has not.
func wantTooLarge(t *testing.T, c net.Conn) {
	t.Helper()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("status %d, want 413", answer.StatusCode)
	}
}

// Peers of the HTTP side that stall keep neither a check nor a scrape out, and one that announces a
// body is answered without it.
func TestSlowPeersOfTheHTTPSideKeepNoneOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.sock")
	start(t, func(c *Config) { c.Metrics = parsed(t, "unix://"+path) })
	for i := range 3 * maxStatusConnections {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		request := []string{
			"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow",
			"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
			"GET /healthz HTTP/1.1\r\nHo", "",
		}[i%4]
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			wantTooLarge(t, c)
		}
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	if got := get(t, client, "http://sidecar/healthz"); got != "ok\n" {
		t.Errorf("healthz: %s", got)
	}
}

func TestControlOverTCPWantsCertificatesOfBothSides(t *testing.T) {
	ca := certtest.New(t)
	server, client, stranger := ca.Issue(t, "server"), ca.Issue(t, "client"), certtest.New(t).Issue(t, "client")
	where, passed := boundTCP(t)
	r := start(t, func(c *Config) {
		c.ControlTCP = ControlTCP{Address: passed, Cert: server.Cert, Key: server.Key, ClientCA: ca.File}
	})
	for _, c := range []struct {
		name string
		pair certtest.Pair
		want codes.Code
	}{{"our client", client, codes.OK}, {"no certificate", certtest.Pair{}, codes.Unavailable}, {"another authority's", stranger, codes.Unavailable}} {
		conn := dial(t, "passthrough:///"+where, grpccredentials.NewTLS(ca.Client(t, c.pair)))
		_, err := pb.NewConnectionManagerServiceClient(conn).Start(t.Context(), &pb.StartRequest{})
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if !strings.Contains(r.log.String(), "CN=client") {
		t.Error("the log does not say whose certificate the caller showed")
	}
}

// boundTCP is a listening socket as a service manager would pass it, and where it listens.
func boundTCP(t *testing.T) (where string, passed listener.Address) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if controlErr := raw.Control(func(original uintptr) { fd, err = unix.Dup(int(original)) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return l.Addr().String(), parsed(t, "fd://"+strconv.Itoa(fd))
}

// Peers that connect to the control socket and send nothing do not keep operators out, not even for
// the time that a handshake has.
func TestSilentPeersOfTheControlSocketMakeWay(t *testing.T) {
	r := start(t, nil)
	for range maxControlConnections + 50 {
		c, err := net.Dial("unix", r.config.Control.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), controlHelloTimeout-2*time.Second)
	defer cancel()
	client := pb.NewConnectionManagerServiceClient(r.dial(t))
	if _, err := client.GetConnectionCounts(ctx, &pb.GetConnectionCountsRequest{}); err != nil {
		t.Error(err)
	}
}
