package nodebridge

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxLine is the longest message that Node may send, in bytes. Ours are some hundred bytes long.
const maxLine = 4 << 20

// channel is the IPC channel that a Node process gives its child, as Node's own children use it: messages are lines of JSON, and a message with the
// command NODE_HANDLE carries a descriptor, which Node confirms by NODE_HANDLE_ACK, or NODE_HANDLE_NACK if it was lost on the way.
type channel struct {
	conn  *net.UnixConn
	lines *bufio.Scanner
}

// message is all that is said on the channel, in both directions. Node ignores members that are empty here.
type message struct {
	Command string   `json:"cmd,omitempty"`
	Type    string   `json:"type,omitempty"`
	Inner   *message `json:"msg,omitempty"`

	Frames      []byte `json:"frames,omitempty"`      // of the handoff protocol, whole ones; base64 in JSON
	Unreachable string `json:"unreachable,omitempty"` // the name of the error with which connect(2) to the sidecar failed
	Ended       bool   `json:"ended,omitempty"`       // the sidecar has hung up
}

const (
	commandHandle = "NODE_HANDLE"
	commandAck    = "NODE_HANDLE_ACK"
	commandNack   = "NODE_HANDLE_NACK"

	// typeNative asks Node for the handle as it is, without a stream that begins to read.
	typeNative = "net.Native"
)

// openChannel takes ownership of fd.
func openChannel(fd int) (*channel, error) {
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "node")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("the descriptor %d is no IPC channel: %w", fd, err)
	}
	stream, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("the descriptor %d is no IPC channel: a Unix socket is expected", fd)
	}
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxLine)
	return &channel{conn: stream, lines: lines}, nil
}

func (c *channel) close() { _ = c.conn.Close() }

// receive waits for the next message. It returns io.EOF when Node has gone or hung up.
func (c *channel) receive() (message, error) {
	if !c.lines.Scan() {
		if err := c.lines.Err(); err != nil {
			return message{}, fmt.Errorf("reading from Node: %w", err)
		}
		return message{}, io.EOF
	}
	var m message
	if err := json.Unmarshal(c.lines.Bytes(), &m); err != nil {
		return message{}, fmt.Errorf("a message from Node: %w", err)
	}
	return m, nil
}

func (c *channel) send(m message) error {
	_, err := c.conn.Write(line(m))
	return err
}

// sendHandle sends a message with a descriptor, which stays the caller's. Node reads one at a time: the next one has to wait for its answer.
func (c *channel) sendHandle(m message, fd int) error {
	data := line(message{Command: commandHandle, Type: typeNative, Inner: &m})
	n, _, err := c.conn.WriteMsgUnix(data, unix.UnixRights(fd), nil)
	if err == nil && n < len(data) {
		_, err = c.conn.Write(data[n:])
	}
	return err
}

func line(m message) []byte {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and bytes always are JSON
	}
	return append(data, '\n')
}
