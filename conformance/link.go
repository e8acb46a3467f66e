package conformance

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// link is one host's socket. All but the first fields are guarded by the sidecar's mutex.
type link struct {
	sidecar *sidecar
	sock    *net.UnixConn
	raw     syscall.RawConn
	pid     int       // of the process that connected
	came    time.Time // when it did
	epoch   int       // of the sidecar
	in      handoff.Inbox

	writing  sync.Mutex  // keeps frames whole
	dribbled atomic.Bool // dribble is done

	hello      *handoff.Hello // nil before it
	introduced time.Time      // when it came
	features   []string       // agreed
	welcomed   bool
	capacity   int
	leases     int
	listens    []handoff.Listen
	pongs      []uint64
	draining   bool
	gone       bool
}

func newLink(s *sidecar, sock *net.UnixConn) (*link, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &link{sidecar: s, sock: sock, raw: raw, came: time.Now(), epoch: s.epoch}
	err = raw.Control(func(fd uintptr) {
		if who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			k.pid = int(who.Pid)
		}
	})
	return k, err
}

// receive reads frames until the host hangs up.
func (k *link) receive() {
	var err error
	for err == nil {
		ready := k.raw.Read(func(fd uintptr) bool {
			err = k.in.Recv(int(fd))
			return !errors.Is(err, handoff.ErrAgain)
		})
		if err = errors.Join(ready, err); err == nil {
			err = k.take()
		}
	}
	k.sidecar.mu.Lock()
	defer k.sidecar.mu.Unlock()
	if fault := new(handoff.Fault); errors.As(err, &fault) {
		k.sidecar.faultLocked("the host's frames: %v", fault)
	}
	k.hangUpLocked()
	k.in.Close()
}

// take acts on every frame that is here.
func (k *link) take() error {
	k.sidecar.mu.Lock()
	defer k.sidecar.mu.Unlock()
	defer k.sidecar.tellLocked()
	for {
		var f handoff.Frame
		fd, ok, err := k.in.Next(&f)
		if !ok {
			return errors.Join(err, k.in.Settled())
		}
		if k.gone {
			closeFD(fd)
			continue
		}
		var file *os.File
		if fd >= 0 {
			file = os.NewFile(uintptr(fd), "from the host")
		}
		k.sidecar.obeyLocked(k, &f, file)
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// welcome as a frame.
func (k *link) welcome(features []string) handoff.Frame {
	return handoff.Welcome{
		Host: 1, Pool: k.hello.Pool, Capacity: k.hello.Capacity, Features: features, Listeners: []string{"tcp://127.0.0.1:80"},
		KeepAliveTimeoutMS: 75000, Epoch: epochName(k.epoch),
	}.Frame()
}

// welcomeLocked answers HELLO and agrees to these of the features that were asked for.
func (k *link) welcomeLocked(features []string) {
	k.agreeLocked(features)
	f := k.welcome(features)
	k.send(&f)
}

func (k *link) agreeLocked(features []string) { k.features, k.welcomed = features, true }

func (k *link) agreed(feature string) bool { return slices.Contains(k.features, feature) }

// send sends a frame; that the host has hung up is found when reading.
func (k *link) send(f *handoff.Frame) { k.write(f.Append(nil), -1) }

// write sends bytes, with a descriptor unless that is negative.
func (k *link) write(p []byte, fd int) {
	k.writing.Lock()
	defer k.writing.Unlock()
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_ = k.sock.SetWriteDeadline(time.Now().Add(writeTime))
	_ = k.raw.Write(func(sock uintptr) bool {
		for len(p) > 0 {
			n, err := unix.SendmsgN(int(sock), p, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if err != nil {
				return !errors.Is(err, unix.EAGAIN)
			}
			p, rights = p[n:], nil
		}
		return true
	})
}

// writeTime is how long a host may leave its socket full.
const writeTime = 5 * time.Second

// unread is how much of what was sent the host has not taken, in the kernel's measure: 0 is nothing.
func (k *link) unread() (n int) {
	_ = k.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}

func (k *link) hangUp() {
	k.sidecar.mu.Lock()
	defer k.sidecar.mu.Unlock()
	k.hangUpLocked()
}

// hangUpLocked ends the link, from whichever side: what the host held is nobody's now.
func (k *link) hangUpLocked() {
	if k.gone {
		return
	}
	k.gone = true
	_ = k.sock.Close()
	for _, c := range k.sidecar.conns {
		if c.holder == k {
			c.holder = nil
		}
	}
	k.sidecar.tellLocked()
}
