package nodebridge

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// rig is a bridge between a Node and a sidecar, both played by the test.
type rig struct {
	t       *testing.T
	node    *net.UnixConn
	sidecar *net.UnixConn
	heard   string // and not yet looked at
	path    string
	done    chan error
}

func start(t *testing.T) *rig {
	t.Helper()
	r := prepare(t)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r.run()
	if r.sidecar, err = listener.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.sidecar.Close() })
	return r
}

func prepare(t *testing.T) *rig {
	t.Helper()
	ours, theirs := socketpair(t)
	t.Setenv(ChannelVariable, strconv.Itoa(theirs))
	dir, err := os.MkdirTemp("", "bridge") //nolint:usetesting // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &rig{t: t, node: ours, path: filepath.Join(dir, "handoff.sock"), done: make(chan error, 1)}
}

func (r *rig) run() { go func() { r.done <- Run(r.path) }() }

// ends checks that the bridge has ended without an error.
func (r *rig) ends() {
	r.t.Helper()
	if err := <-r.done; err != nil {
		r.t.Errorf("the bridge ended with %v", err)
	}
}

func socketpair(t *testing.T) (ours *net.UnixConn, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "node")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn), fds[1]
}

// hears reads the next message that the bridge has sent to Node, a line, and the descriptor that came with it, or -1.
func (r *rig) hears() (message, int) {
	r.t.Helper()
	fd := -1
	for !strings.Contains(r.heard, "\n") {
		data, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(8*4))
		n, oobn, _, _, err := r.node.ReadMsgUnix(data, oob)
		if err != nil {
			r.t.Fatalf("Node reads: %v", err)
		}
		r.heard += string(data[:n])
		fd = max(fd, descriptor(r.t, oob[:oobn]))
	}
	var line string
	line, r.heard, _ = strings.Cut(r.heard, "\n")
	var m message
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		r.t.Fatalf("Node got %q: %v", line, err)
	}
	return m, fd
}

func descriptor(t *testing.T, oob []byte) int {
	t.Helper()
	if len(oob) == 0 {
		return -1
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(messages) != 1 || len(fds) != 1 {
		t.Fatalf("%d messages, descriptors %v, %v", len(messages), fds, err)
	}
	return fds[0]
}

func (r *rig) says(line string) {
	r.t.Helper()
	if _, err := r.node.Write([]byte(line + "\n")); err != nil {
		r.t.Fatal(err)
	}
}

// lends sends a lease with a descriptor, and returns the other end of what is lent.
func (r *rig) lends(conn uint64) *os.File {
	r.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	defer write.Close()
	r.t.Cleanup(func() { read.Close() })
	if _, _, err := r.sidecar.WriteMsgUnix(lease(conn), unix.UnixRights(int(write.Fd())), nil); err != nil {
		r.t.Fatal(err)
	}
	return read
}

func lease(conn uint64) []byte {
	f := handoff.Frame{Type: handoff.TypeLease, Flags: handoff.FlagFD, Conn: conn, Seq: 7}
	return f.Append(nil)
}

func ping(a uint64) []byte {
	f := handoff.Frame{Type: handoff.TypePing, A: a}
	return f.Append(nil)
}

func (r *rig) sidecarReads(want []byte) {
	r.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r.sidecar, got); err != nil || string(got) != string(want) {
		r.t.Fatalf("the sidecar got %x, %v; want %x", got, err, want)
	}
}

func TestPassesFramesBothWays(t *testing.T) {
	r := start(t)
	both := append(ping(1), ping(2)...)
	if _, err := r.sidecar.Write(both); err != nil {
		t.Fatal(err)
	}
	if m, fd := r.hears(); string(m.Frames) != string(both) || fd != -1 {
		t.Errorf("Node got %+v and descriptor %d", m, fd)
	}
	said, err := json.Marshal(message{Frames: both})
	if err != nil {
		t.Fatal(err)
	}
	r.says(string(said))
	r.sidecarReads(both)
	r.node.Close()
	r.ends()
}

func TestPassesDescriptorsOneByOne(t *testing.T) {
	r := start(t)
	pipes := []*os.File{r.lends(1), r.lends(2)}
	for i, pipe := range pipes {
		m, fd := r.hears()
		if m.Command != commandHandle || m.Type != typeNative || string(m.Inner.Frames) != string(lease(uint64(i+1))) || fd < 0 {
			t.Fatalf("Node got %+v and descriptor %d", m, fd)
		}
		// Nothing follows before the answer, although the next lease is there.
		if n, err := unread(r.node); err != nil || n != 0 {
			t.Errorf("%d bytes came before the answer, %v", n, err)
		}
		_ = unix.Close(fd)
		if n, err := pipe.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the bridge has kept a descriptor: %d, %v", n, err)
		}
		r.says(`{"cmd":"NODE_HANDLE_ACK"}`)
	}
	r.node.Close()
	r.ends()
}

func unread(conn *net.UnixConn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = errors.Join(raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }), err)
	return n, err
}

func TestNodeHearsOfALeaseWhoseDescriptorItHasLost(t *testing.T) {
	r := start(t)
	r.lends(5)
	_, fd := r.hears()
	_ = unix.Close(fd)
	r.says(`{"cmd":"NODE_HANDLE_NACK"}`)
	if m, fd := r.hears(); fd >= 0 || string(m.Frames) != string(lease(5)) {
		t.Errorf("Node got %+v and descriptor %d, want the lease without descriptor", m, fd)
	}
	r.node.Close()
	r.ends()
}

func TestEndsWhenNodeHasGone(t *testing.T) {
	r := start(t)
	pipe := r.lends(1)
	_, fd := r.hears()
	_ = unix.Close(fd)
	r.node.Close() // and will not answer
	r.ends()
	if _, err := r.sidecar.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the sidecar reads %v, want EOF", err)
	}
	if _, err := pipe.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a descriptor is left: %v", err)
	}
}

func TestTellsWhatTheSidecarSaidBeforeItHungUp(t *testing.T) {
	r := start(t)
	refuse := handoff.Frame{Type: handoff.TypeRefuse, A: 14, Payload: []byte("no")}
	if _, err := r.sidecar.Write(refuse.Append(nil)); err != nil {
		t.Fatal(err)
	}
	r.sidecar.Close()
	_, _ = r.node.Write([]byte(`{"frames":"AAAA"}` + "\n")) // cannot be sent any more; the bridge may even have ended by now
	if m, _ := r.hears(); string(m.Frames) != string(refuse.Append(nil)) {
		t.Errorf("Node got %+v", m)
	}
	if m, _ := r.hears(); !m.Ended {
		t.Errorf("Node got %+v, want the end", m)
	}
	if n, err := r.node.Read(make([]byte, 1)); err == nil {
		t.Errorf("Node reads %d more bytes", n)
	}
	r.ends()
}

func TestTellsThatTheSidecarCannotBeReached(t *testing.T) {
	r := prepare(t)
	r.run()
	if m, _ := r.hears(); m.Unreachable != "ENOENT" {
		t.Errorf("Node got %+v, want ENOENT", m)
	}
	r.ends()
}

func TestEndsAtWhatIsNotTheProtocol(t *testing.T) {
	for name, c := range map[string]struct{ line, want string }{
		"no JSON":            {"hello", "a message from Node"},
		"answers too many":   {strings.Repeat(`{"cmd":"NODE_HANDLE_ACK"}`+"\n", 2), "which was sent nothing"},
		"a line without end": {strings.Repeat("x", maxLine+1), "reading from Node"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			go func() { _, _ = r.node.Write([]byte(c.line + "\n")) }()
			if err := <-r.done; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the bridge ended with %v, want %q", err, c.want)
			}
		})
	}
}

func TestEndsAtAFrameThatMayNotBeIgnored(t *testing.T) {
	r := start(t)
	if _, err := r.sidecar.Write(append([]byte{0x80}, make([]byte, 31)...)); err != nil {
		t.Fatal(err)
	}
	if err := <-r.done; !errors.Is(err, handoff.ErrBadFrame) && err == nil {
		t.Errorf("the bridge ended with %v", err)
	}
}

func TestNeedsAChannel(t *testing.T) {
	for _, value := range []string{"", "three"} {
		t.Setenv(ChannelVariable, value)
		if err := Run("/nonexistent"); !errors.Is(err, ErrNoChannel) {
			t.Errorf("%q: %v", value, err)
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(ChannelVariable, strconv.Itoa(fd))
	if err := Run("/nonexistent"); err == nil || !strings.Contains(err.Error(), "is no IPC channel") {
		t.Errorf("/dev/null: %v", err)
	}
}
