package host

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
