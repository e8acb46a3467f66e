package manager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// Hosts whose process ends while their link does not: somebody else holds the host's end of it, or
// a queue does.

// act is what a process does that is started for a test: this test binary, with this in its environment.
const actVariable = "ANTEROOM_TEST_ACT"

// acts are what such a process does with its link, which is descriptor 3 where it is inherited.
var processActs = map[string]func(*testing.T, *peer){
	"half a frame":      func(_ *testing.T, p *peer) { p.push(wire(flagged(handoff.Frame{Type: handoff.TypeAdopt}))[:9], p.sock) },
	"in its own queue":  inItsOwnQueue,
	"in another socket": inAnotherSocket,
	"to a child":        func(t *testing.T, p *peer) { child(t, "hold", p.sock) },
	"to a child that answers": func(t *testing.T, p *peer) {
		child(t, "answer", p.sock)
	},
	"with answers to PINGs that may come": func(t *testing.T, p *peer) {
		child(t, "hold", p.sock)
		for n := range uint64(100) {
			p.send(handoff.Frame{Type: handoff.TypePong, A: n})
		}
	},
}

// inItsOwnQueue leaves the link in the queue of a socket both of whose ends are the sidecar's.
func inItsOwnQueue(t *testing.T, p *peer) {
	near, far := aPair(t, unix.SOCK_STREAM)
	if err := unix.Sendmsg(near, []byte("x"), unix.UnixRights(p.sock), nil, 0); err != nil {
		t.Fatal(err)
	}
	p.sendFD(handoff.Frame{Type: handoff.TypeAdopt, A: 1 << 40}, near)
	p.want(handoff.TypeAdopted)
	p.sendFD(handoff.Frame{Type: handoff.TypeAdopt, A: 1 << 40}, far)
	p.want(handoff.TypeAdopted)
}

// inAnotherSocket leaves the link in flight to a listening socket that is the sidecar's.
func inAnotherSocket(t *testing.T, p *peer) {
	listening := aSocket(t, unix.AF_UNIX, unix.SOCK_STREAM)
	where := &unix.SockaddrUnix{Name: fmt.Sprintf("@anteroom-test-%d", os.Getpid())}
	if err := errors.Join(unix.Bind(listening, where), unix.Listen(listening, 1)); err != nil {
		t.Fatal(err)
	}
	client := aSocket(t, unix.AF_UNIX, unix.SOCK_STREAM)
	if err := unix.Connect(client, where); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(client, []byte("x"), unix.UnixRights(p.sock, client), nil, 0); err != nil {
		t.Fatal(err)
	}
	p.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, listening)
	p.want(handoff.TypeListening)
}

// child starts a process that has the link, and outlives this one until its standard input ends,
// which is the test's.
func child(t *testing.T, act string, link int) {
	cmd := exec.Command(must(os.Executable())(t), "-test.run=^TestAsAnotherProcess$") // not in the test's context, which ends with it
	cmd.Env = append(os.Environ(), actVariable+"="+act)
	cmd.Stdin = os.Stdin
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(link))(t)), "link")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestAsAnotherProcess is what processes started by tests do.
func TestAsAnotherProcess(t *testing.T) {
	switch act := os.Getenv(actVariable); act {
	case "":
		t.Skip("for other tests")
	case "hold":
		_, _ = os.Stdin.Read(make([]byte, 1))
	case "answer":
		answerPings(t, &peer{t: t, sock: 3})
	default:
		r := &rig{t: t, handoff: os.Getenv("ANTEROOM_TEST_HANDOFF")}
		processActs[act](t, r.attach(handoff.Hello{Name: "gone", Capacity: 4}))
		os.Exit(0) // at once, with all that is open
	}
}

func answerPings(t *testing.T, p *peer) {
	for {
		f, _, err := p.read(time.Minute)
		if err != nil {
			return
		}
		if f.Type == handoff.TypePing {
			p.send(handoff.Frame{Type: handoff.TypePong, A: f.A})
		}
	}
}

// leaves has a process attach, leave its link as the act says, and end. Its children live until the
// test ends.
func (r *rig) leaves(act string) {
	r.t.Helper()
	stdin, alive, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	r.t.Cleanup(func() { _ = alive.Close() })
	cmd := exec.CommandContext(r.t.Context(), must(os.Executable())(r.t), "-test.run=^TestAsAnotherProcess$")
	cmd.Env = append(os.Environ(), actVariable+"="+act, "ANTEROOM_TEST_HANDOFF="+r.handoff)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", act, err, out)
	}
}

// A host ends with its process, wherever its end of the link is then, and its requests wait for another.
func TestAHostEndsWithItsProcess(t *testing.T) {
	for act := range processActs {
		if act == "to a child that answers" {
			continue
		}
		t.Run(act, func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{PingTimeout: 3 * time.Second}})
			b := r.bystander()
			r.leaves(act)
			r.eventually("its end is known", func(c Counts) bool { return len(c.Hosts) < 2 || c.Hosts[1].Hung })
			c := r.dial()
			c.send("q")
			r.eventually("the request waits", func(c Counts) bool { return c.Pools[0].States.Ready >= 1 })
			for len(r.counts().Hosts) > 1 {
				r.leap(3 * time.Second)
			}
			h := r.attach(handoff.Hello{Capacity: 10})
			for request := []byte("x"); request[0] == 'x'; { // others are what the gone host has brought
				lease, fd := h.want(handoff.TypeLease)
				_, _ = unix.Read(fd, request)
				_, _ = unix.Write(fd, []byte("y"))
				closeFD(fd)
				h.send(put(lease))
			}
			c.want("y")
			b.works()
		})
	}
}

// A link that another process goes on with lives, though the one that connected it has ended: as
// long as PINGs are answered.
func TestALinkGoesOnWithAChild(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{PingTimeout: 3 * time.Second}})
	r.leaves("to a child that answers")
	r.eventually("its end is known, and its child answers", func(c Counts) bool {
		return len(c.Hosts) == 1 && !c.Hosts[0].Hung && r.journal.lines("process has ended") == 1
	})
	for range 3 {
		before := r.pings()
		r.leap(orphanInterval)
		r.eventually("it is asked, though PINGs are off, and answers", func(c Counts) bool { return r.pings() != before && !r.asking() })
	}
}

// pings is the number of the last PING to the only host.
func (r *rig) pings() (number uint64) {
	_ = r.tell(func() error {
		for _, h := range r.policy.hosts {
			number = h.number
		}
		return nil
	})
	return number
}

func (r *rig) asking() (asking bool) {
	_ = r.tell(func() error {
		for _, h := range r.policy.hosts {
			asking = h.asked != 0
		}
		return nil
	})
	return asking
}

// The rest of a frame has a time, however many bytes of it come meanwhile.
func TestHalfAFrameHasATime(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	h := r.attach(handoff.Hello{})
	near, _ := aPair(t, unix.SOCK_STREAM)
	frame := wire(flagged(handoff.Frame{Type: handoff.TypeAdopt}))
	h.push(frame[:9], near)
	r.settled("its beginning")
	r.leap(frameTimeout - time.Second)
	h.push(frame[9:10])
	r.settled("one more byte")
	h.quiet(r)
	r.leap(time.Second)
	h.wantFault(handoff.CodeTooSlow)
	b.works()
}

// One frame after another in halves is no half frame.
func TestFramesInHalvesInTime(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	frame := wire(handoff.Frame{Type: handoff.TypeDropped})
	h.push(frame[:9])
	for range 5 {
		r.settled("a half")
		r.leap(frameTimeout - time.Second)
		h.push(append(frame[9:len(frame):len(frame)], frame[:9]...))
	}
	h.push(frame[9:])
	r.settled("the last half")
	r.leap(frameTimeout)
	h.quiet(r)
	if len(r.counts().Hosts) != 1 {
		t.Error("the host is gone")
	}
}

// Half a frame cannot keep the link's end either.
func TestHalfAFrameWithALink(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	h := r.attach(handoff.Hello{})
	h.push(wire(flagged(handoff.Frame{Type: handoff.TypeAdopt}))[:9], b.host.sock)
	h.wantFault(handoff.CodeBadDescriptor)
	b.works()
}

// The host's own end of its link is no connection, nor is another host's.
func TestAdoptOfALink(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	own, others := r.attach(handoff.Hello{}), r.attach(handoff.Hello{})
	own.sendFD(handoff.Frame{Type: handoff.TypeAdopt}, own.sock)
	own.wantFault(handoff.CodeBadDescriptor)
	others.sendFD(handoff.Frame{Type: handoff.TypeAdopt}, b.host.sock)
	others.wantFault(handoff.CodeBadDescriptor)
	b.works()
}

// A process's descriptor is watched on by a successor; without one it is made again.
func TestASuccessorWatchesProcesses(t *testing.T) {
	for name, inherits := range map[string]bool{"inherited": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			var note linkNote
			r := steppedRig(t, Config{})
			h := r.stepInHost(1)
			for _, l := range r.links {
				note.process = l.note.process
				estate := Estate{int(note.process): inherits}
				_ = r.sel.Unregister(int(note.process))
				if !inherits {
					delete(estate, int(note.process))
					closeFD(int(note.process))
				}
				r.rewatchProcess(l, estate)
				if l.note.process <= maxStdio || len(estate) != 0 {
					t.Errorf("its descriptor is %d, %v is left", l.note.process, estate)
				}
			}
			h.quietly(r)
		})
	}
}

func (p *peer) quietly(r *rig) {
	p.t.Helper()
	r.turn()
	if f, _, err := p.read(0); !errors.Is(err, errQuiet) {
		p.t.Errorf("a frame: %+v, %v", f, err)
	}
}

// The kernel: a socket knows the process that connected it, and tells its end, though another
// process has the socket.
func TestTheKernelTellsTheEndOfAPeer(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	for _, l := range r.linksNow() {
		fd, err := listener.PeerProcess(l)
		if err != nil {
			t.Fatal(err)
		}
		closing := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(closing, 0); n != 0 || err != nil {
			t.Errorf("this process has ended: %d, %v", n, err)
		}
		closeFD(fd)
	}
	h.quiet(r)
}

func (r *rig) linksNow() (fds []int) {
	_ = r.tell(func() error {
		for _, l := range r.links {
			fds = append(fds, l.fd)
		}
		return nil
	})
	return fds
}
