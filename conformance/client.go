package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// client is the client's end of a connection: requests as bytes, responses as HTTP.
type client struct {
	sidecar  *sidecar
	tcp      *net.TCPConn
	in       *bufio.Reader
	consumed uint64      // bytes read from the socket
	ended    atomic.Bool // nothing more is to be sent to it
	reset    atomic.Bool // by the client
	blocking bool        // the kit itself has cleared O_NONBLOCK
}

// Read counts.
func (c *client) Read(p []byte) (int, error) {
	n, err := c.tcp.Read(p)
	c.consumed += uint64(n)
	return n, err
}

// connect makes a connection over loopback and accepts it. A positive window bounds what the client's kernel takes unread, in bytes.
func (s *sidecar) connect(window int) (*connection, error) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer closeFD(l)
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l, 1)); err != nil {
		return nil, fmt.Errorf("a listener on loopback: %w", err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { return limitWindow(raw, window) }}
	tcp, err := d.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)) //nolint:forcetypeassert // bound so above
	if err != nil {
		return nil, err
	}
	fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("accept4", err), tcp.Close())
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return s.adopt(tcp.(*net.TCPConn), fd), nil //nolint:forcetypeassert // dialled so above
}

func limitWindow(raw syscall.RawConn, window int) (err error) {
	if window == 0 {
		return nil
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, window) }), err)
}

func (s *sidecar) adopt(tcp *net.TCPConn, fd int) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastConn++
	cl := &client{sidecar: s, tcp: tcp}
	cl.in = bufio.NewReader(cl)
	inode, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	c := &connection{client: cl, id: s.lastConn, fd: fd, inode: inode}
	s.conns[c.id] = c
	return c
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	close  bool // the connection ends with it
}

// response reads the response to a request with the given method.
func (c *client) response(method string, within time.Duration) (answer, error) {
	_ = c.tcp.SetReadDeadline(time.Now().Add(within))
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return answer{}, fmt.Errorf("no response: %w", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("a response of %s that ends after %d bytes of body: %w", res.Status, len(body), err)
	}
	_ = res.Body.Close() // it is read
	return answer{res.StatusCode, res.Header, body, res.Close}, nil
}

// silent reports whether the client hears nothing for a while: neither bytes nor the connection's end.
func (c *client) silent(d time.Duration) error {
	_ = c.tcp.SetReadDeadline(time.Now().Add(d))
	b, err := c.in.Peek(1)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == nil:
		return fmt.Errorf("it got the byte %q", b)
	case errors.Is(err, io.EOF):
		return errors.New("it was ended (FIN)")
	}
	return err
}

// drain returns what is left until the connection's end.
func (c *client) drain(within time.Duration) ([]byte, error) {
	_ = c.tcp.SetReadDeadline(time.Now().Add(within))
	return io.ReadAll(c.in)
}

// abort ends the connection with a reset.
func (c *client) abort() {
	c.reset.Store(true)
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// waiting is how many bytes are there for the client.
func (c *client) waiting() (n int) {
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n = unreadHere(int(fd)) })
	return n
}
