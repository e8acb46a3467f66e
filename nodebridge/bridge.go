// Package nodebridge passes the frames and descriptors of one link to the sidecar on to a Node process, whose only documented way to
// receive a descriptor is the IPC channel of a child process.
package nodebridge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// ChannelVariable is where Node tells its child which descriptor the IPC channel is.
const ChannelVariable = "NODE_CHANNEL_FD"

// ErrNoChannel means that this process was not started by Node.
var ErrNoChannel = errors.New("there is no IPC channel in " + ChannelVariable + ": the Node SDK starts node-bridge, it is not for the command line")

// Run connects to the sidecar at path and passes on what it and Node say until either of them hangs up, which is no error. Node is told if
// the sidecar cannot be reached.
func Run(path string) error {
	fd, err := strconv.Atoi(os.Getenv(ChannelVariable))
	if err != nil {
		return ErrNoChannel
	}
	node, err := openChannel(fd)
	if err != nil {
		return err
	}
	defer node.close()
	sidecar, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return node.send(message{Unreachable: errnoName(err)})
	}
	return newBridge(node, sidecar).run()
}

// errnoName is the name by which Node knows an error of connect(2).
func errnoName(err error) string {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// bridge is two loops, one for each direction. Each ends when the side it reads from hangs up, and then hangs up on the other side, which ends
// the other loop.
type bridge struct {
	node    *channel
	sidecar *net.UnixConn
	answers chan bool // whether Node has got the descriptor that was sent last
}

func newBridge(node *channel, sidecar *net.UnixConn) *bridge {
	return &bridge{node: node, sidecar: sidecar, answers: make(chan bool, 1)}
}

func (b *bridge) run() error {
	down := make(chan error, 1)
	go func() {
		down <- b.toNode()
		b.node.close()
	}()
	up := b.toSidecar()
	_ = b.sidecar.Close()
	return errors.Join(expected(up), expected(<-down))
}

// expected is err unless it says that one side has hung up.
func expected(err error) error {
	for _, end := range []error{io.EOF, net.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// toSidecar passes on what Node says, for as long as it does.
func (b *bridge) toSidecar() error {
	defer close(b.answers)
	for {
		m, err := b.node.receive()
		if err != nil {
			return err
		}
		switch {
		case m.Command == commandAck || m.Command == commandNack:
			select {
			case b.answers <- m.Command == commandAck:
			default:
				return fmt.Errorf("%s from Node, which was sent nothing", m.Command)
			}
		case len(m.Frames) > 0:
			// When the sidecar has hung up, what it said before that is still to be read.
			if _, err := b.sidecar.Write(m.Frames); expected(err) != nil {
				return err
			}
		}
	}
}

// toNode passes on what the sidecar says: plain frames together, one with a descriptor by itself.
func (b *bridge) toNode() error {
	raw, err := b.sidecar.SyscallConn()
	if err != nil {
		return err
	}
	var in handoff.Inbox
	defer in.Close()
	for {
		if err := receive(raw, &in); err != nil {
			if errors.Is(err, io.EOF) {
				return b.node.send(message{Ended: true})
			}
			return err
		}
		if err := b.passFrames(&in); err != nil {
			return err
		}
	}
}

type rawReader interface {
	Read(f func(fd uintptr) (done bool)) error
}

// receive waits for something to read and reads once.
func receive(sock rawReader, in *handoff.Inbox) error {
	var err error
	if e := sock.Read(func(fd uintptr) bool {
		err = in.Recv(int(fd))
		return !errors.Is(err, handoff.ErrAgain)
	}); e != nil {
		return e
	}
	return err
}

func (b *bridge) passFrames(in *handoff.Inbox) error {
	var plain []byte
	for {
		var f handoff.Frame
		fd, ok, err := in.Next(&f)
		switch {
		case errors.Is(err, handoff.ErrDescriptorLost):
			err = b.lost(&f)
		case err != nil:
			return err
		case !ok:
			return b.sendPlain(plain)
		case fd < 0:
			plain = f.Append(plain)
		default:
			err = errors.Join(b.sendPlain(plain), b.sendWithHandle(&f, fd))
			plain = nil
		}
		if err != nil {
			return err
		}
	}
}

func (b *bridge) sendPlain(frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	return b.node.send(message{Frames: frames})
}

// sendWithHandle owns fd. It waits for Node's answer: of two descriptors on their way, Node may take one for the other.
func (b *bridge) sendWithHandle(f *handoff.Frame, fd int) error {
	err := b.node.sendHandle(message{Frames: f.Append(nil)}, fd)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	got, open := <-b.answers
	switch {
	case !open:
		return io.EOF
	case !got:
		return b.sendPlain(f.Append(nil)) // Node has no room for the descriptor: it makes some, and answers
	}
	return nil
}

// lost answers for a frame whose descriptor did not reach this process, which has no room for it.
func (b *bridge) lost(f *handoff.Frame) error {
	if f.Type != handoff.TypeLease {
		return nil
	}
	nack := handoff.Frame{Type: handoff.TypeNack, Seq: f.Seq, Conn: f.Conn, A: handoff.NackNoDescriptor}
	if _, err := b.sidecar.Write(nack.Append(nil)); err != nil {
		return fmt.Errorf("answering a lease without descriptor: %w", err)
	}
	return nil
}
