package host

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// spill is the part of a response that a slow client has not taken yet: in a memfd, to which more may be added, or in a file of the app's. While
// the response is made, its pump sends what the client takes; at the response's end the rest is left to the sidecar (FINISH). Without either, as
// when the sidecar is gone, drain sends it and waits.
//
// A response pays for it only if it does not fit the socket: some 50 µs (BenchmarkSpill), two descriptors and a goroutine until it is made. The
// others pay one atomic load with each write.
//
// One goroutine adds. stop, drain and close are for whoever has taken the spill from its connection.
type spill struct {
	room *spillRoom // nil for a file
	file *os.File
	sock *os.File // a duplicate of the client's descriptor in the runtime's poller, with deadlines of its own
	wake chan struct{}
	done chan struct{} // the pump has ended

	mu      sync.Mutex
	at, end int64 // of the file: what is not sent
	taken   int64 // of the room
	stopped bool
	err     error // of sending
}

// newSpill puts data aside. It returns nil if there is no room, or no descriptor to be had.
func newSpill(room *spillRoom, sock *socket, data []byte) *spill {
	if !room.take(0, len(data)) {
		return nil
	}
	fd, err := unix.MemfdCreate("response", unix.MFD_CLOEXEC)
	if err != nil {
		room.give(int64(len(data)))
		return nil
	}
	s := startSpill(sock, os.NewFile(uintptr(fd), "response"), 0, 0)
	if s == nil {
		room.give(int64(len(data)))
		return nil
	}
	s.room, s.taken = room, int64(len(data))
	if err := s.append(data); err != nil {
		s.close()
		return nil
	}
	return s
}

// newFileSpill leaves a part of a regular file to the pump. The file is only borrowed.
func newFileSpill(sock *socket, file *os.File, at, end int64) *spill {
	fd, err := duplicate(file)
	if err != nil {
		return nil
	}
	return startSpill(sock, os.NewFile(uintptr(fd), file.Name()), at, end)
}

// startSpill takes ownership of file, also when it fails.
func startSpill(sock *socket, file *os.File, at, end int64) *spill {
	fd, err := sock.duplicate()
	if err != nil {
		_ = file.Close()
		return nil
	}
	s := &spill{file: file, sock: os.NewFile(uintptr(fd), "client"), wake: make(chan struct{}, 1), at: at, end: end}
	s.start()
	return s
}

func (s *spill) start() {
	s.done = make(chan struct{})
	go s.pump()
}

// add puts more aside. It reports false, and has done nothing, if there is no room; an error is the client's.
func (s *spill) add(data []byte) (bool, error) {
	s.mu.Lock()
	err, taken := s.err, s.taken
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	if s.room == nil || !s.room.take(taken, len(data)) {
		return false, nil
	}
	if !s.count(len(data)) {
		s.room.give(int64(len(data)))
		return false, net.ErrClosed
	}
	return true, s.append(data)
}

// count notes what was taken of the room, unless the connection was closed meanwhile.
func (s *spill) count(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.taken += int64(n)
	}
	return !s.stopped
}

func (s *spill) append(data []byte) error {
	if _, err := s.file.WriteAt(data, s.end); err != nil {
		return err
	}
	s.mu.Lock()
	s.end += int64(len(data))
	s.mu.Unlock()
	s.nudge()
	return nil
}

func (s *spill) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pump sends what the client takes until stop, or an error.
func (s *spill) pump() {
	defer close(s.done)
	for {
		s.mu.Lock()
		idle, over := s.at == s.end, s.stopped || s.err != nil
		s.mu.Unlock()
		switch {
		case over:
			return
		case idle:
			<-s.wake
		default:
			s.send()
		}
	}
}

// send sends until the file's end, waiting for the client, or until the deadline of sock.
func (s *spill) send() {
	raw, err := s.sock.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Write(func(fd uintptr) bool {
			err = s.sendSome(int(fd))
			return !errors.Is(err, errAgain)
		}), err)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
}

func (s *spill) sendSome(to int) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	err = errors.Join(raw.Control(func(from uintptr) { err = s.sendfile(to, int(from)) }), err)
	return err
}

func (s *spill) sendfile(to, from int) error {
	for {
		s.mu.Lock()
		at, end, stopped := s.at, s.end, s.stopped
		s.mu.Unlock()
		if at == end || stopped {
			return nil
		}
		sent := int64(0)
		err := sendfileSome(to, from, &at, min(end-at, sendfileChunk), &sent)
		s.mu.Lock()
		s.at = at
		s.mu.Unlock()
		if err == nil && sent == 0 {
			err = errShorter
		}
		if err != nil {
			return err
		}
	}
}

var errShorter = errors.New("host: the file that is being sent has become shorter")

// stop ends the pump and returns what is left, or why sending has failed.
func (s *spill) stop() (at, left int64, err error) {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	_ = s.sock.SetWriteDeadline(time.Unix(1, 0))
	s.nudge()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.end - s.at, s.err
}

// drain sends what is left, and waits for the client as an ordinary write does, until the deadline; zero is none.
func (s *spill) drain(until time.Time) error {
	_, left, err := s.stop()
	if left == 0 || err != nil {
		return err
	}
	s.mu.Lock()
	s.stopped = false
	s.mu.Unlock()
	_ = s.sock.SetWriteDeadline(until)
	s.send()
	if _, left, err = s.stop(); err == nil && left > 0 {
		err = os.ErrDeadlineExceeded
	}
	return err
}

// pass takes what was taken of the room: it counts elsewhere from now on.
func (s *spill) pass() (taken int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, s.taken = s.taken, 0
	return taken
}

// close lets go of everything, and of the room as far as that was not passed on.
func (s *spill) close() {
	_, _, _ = s.stop()
	_ = s.sock.Close()
	_ = s.file.Close()
	if s.room != nil {
		s.room.give(s.pass())
	}
}

// spillRoom counts the memory in which a host's responses wait for their clients, those included that were left to the sidecar.
type spillRoom struct {
	response, total int64

	mu    sync.Mutex
	taken int64
}

// take counts more bytes for a response that has some already, and reports whether there is room.
func (r *spillRoom) take(has int64, more int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if has+int64(more) > r.response || r.taken+int64(more) > r.total {
		return false
	}
	r.taken += int64(more)
	return true
}

func (r *spillRoom) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= n
}

// giveLater is for what the sidecar sends without telling when that is done.
func (r *spillRoom) giveLater(n int64) {
	if n > 0 {
		time.AfterFunc(unseenTime, func() { r.give(n) })
	}
}

// unseenTime is for how long the rest of a response counts whose end this host cannot see.
const unseenTime = time.Minute

// The connection's side

// spillable reports whether the rest of a response may be left to the sidecar.
func (c *conn) spillable() bool {
	return !c.own.Load() && c.c.link.agreed(handoff.FeatureFinish)
}

// writeOrSpill sends what the client takes at once and puts the rest aside; where there is no room for it, it waits.
func (c *conn) writeOrSpill(p []byte) (sent int, err error) {
	if s := c.spill.Load(); s != nil {
		if c.writeBy.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		if added, err := s.add(p); added && err == nil {
			return len(p), nil
		} else if err != nil {
			return 0, c.opError("write", err)
		}
		if err := c.unspill(); err != nil {
			return 0, err
		}
	}
	if c.closed.Load() { // and what was put aside is with whoever has closed it
		return 0, net.ErrClosed
	}
	if sent, err = c.writeNow(p); !errors.Is(err, errAgain) {
		return sent, err
	}
	if c.spillable() {
		if s := newSpill(c.c.link.host.room, c.socket, p[sent:]); s != nil {
			return len(p), c.keep(s)
		}
	}
	n, err := c.write(p[sent:])
	return sent + n, err
}

// keep makes s what is put aside of the response, unless the connection was closed meanwhile.
func (c *conn) keep(s *spill) error {
	c.spill.Store(s)
	if c.closed.Load() {
		c.dropSpill()
		return net.ErrClosed
	}
	return nil
}

// dropSpill forgets what was put aside.
func (c *conn) dropSpill() {
	if s := c.spill.Swap(nil); s != nil {
		s.close()
	}
}

// unspill sends what was put aside, as a write that waits.
func (c *conn) unspill() error {
	s := c.spill.Swap(nil)
	if s == nil {
		return nil
	}
	defer s.close()
	return c.opError("write", s.drain(c.writeBy.time()))
}

// finish leaves to the sidecar what was put aside, and with it the lease. done is false if there is nothing to leave: the lease is to be answered otherwise.
// Without a sidecar it sends the rest itself.
func (c *conn) finish(lease Lease, last bool) (done, kept bool, err error) {
	s := c.spill.Swap(nil)
	if s == nil {
		return false, false, nil
	}
	defer s.close()
	at, left, err := s.stop()
	if left == 0 || err != nil {
		return false, false, err
	}
	kept, err = lease.finish(s.file, at, left, last)
	switch {
	case err == nil && s.room != nil:
		c.c.link.countRest(c.c, s.pass())
	case errors.Is(err, ErrLinkLost):
		_ = s.drain(c.writeBy.time()) // there is no one to tell
	}
	return true, kept, err
}

// countRest counts the memory of a rest that the sidecar sends: until the connection's next lease if this host sees that, else for a while.
func (k *link) countRest(c *connection, n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state == stateIdle {
		c.rest += n
	} else {
		k.host.room.giveLater(n)
	}
}

// restDoneLocked: the rest of the connection's last response is sent, or nobody will send it.
func (k *link) restDoneLocked(c *connection) {
	if c.rest > 0 {
		k.host.room.give(c.rest)
		c.rest = 0
	}
}

// fileOrSpill is writeOrSpill for a part of a regular file, limited unless limit is nil.
func (c *conn) fileOrSpill(f *os.File, limit *io.LimitedReader) (sent int64, err error) {
	if err := c.unspill(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	left := int64(1) << 62
	if limit != nil {
		left = limit.N
	}
	defer func() {
		if limit != nil {
			limit.N -= sent
		}
	}()
	if !c.spillable() {
		return c.sendfile(f, left)
	}
	sent, err = c.sendfileNow(f, left)
	if !errors.Is(err, errAgain) {
		return sent, err
	}
	if n, err := c.spillFile(f, left-sent); n > 0 || err != nil {
		return sent + n, err
	}
	n, err := c.sendfile(f, left-sent)
	return sent + n, err
}

// spillFile leaves at most left bytes of the file, from where it stands, to the pump or the sidecar. It returns how many, 0 if that cannot be.
func (c *conn) spillFile(f *os.File, left int64) (int64, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, nil //nolint:nilerr // it is sent by a road that needs no offset
	}
	st, err := f.Stat()
	if err != nil || st.Size() <= at {
		return 0, nil //nolint:nilerr // so is one whose end is not known
	}
	left = min(left, st.Size()-at)
	s := newFileSpill(c.socket, f, at, at+left)
	if s == nil {
		return 0, nil
	}
	_, _ = f.Seek(left, io.SeekCurrent)
	return left, c.keep(s)
}
