package host

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendfileChunk is how much one sendfile(2) is asked for.
const sendfileChunk = 4 << 20

// fileOf returns the regular file that r reads and the limit on it, if any.
func fileOf(r io.Reader) (*os.File, *io.LimitedReader) {
	limit, ok := r.(*io.LimitedReader)
	if ok {
		r = limit.R
	}
	f, ok := r.(*os.File)
	if !ok {
		return nil, nil
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, nil
	}
	return f, limit
}

// sendfile sends at most left bytes from the file's offset on, which moves with them, and waits for the client.
func (s *socket) sendfile(f *os.File, left int64) (int64, error) {
	return s.withFile(f, func(from int, sent *int64) error { return s.sendfileFrom(from, left, sent) })
}

// sendfileNow is sendfile for a caller that has something better to do than wait: it returns errAgain if something is left.
func (s *socket) sendfileNow(f *os.File, left int64) (int64, error) {
	return s.withFile(f, func(from int, sent *int64) error {
		if s.writeBy.passed() {
			return os.ErrDeadlineExceeded
		}
		return sendfileSome(s.fd, from, nil, left, sent)
	})
}

func (s *socket) withFile(f *os.File, send func(from int, sent *int64) error) (sent int64, err error) {
	source, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if !s.acquire() {
		return 0, os.ErrClosed
	}
	defer s.release()
	controlErr := source.Control(func(from uintptr) {
		err = send(int(from), &sent)
	})
	if err == nil {
		err = controlErr
	}
	return sent, s.opError("write", err)
}

func (s *socket) sendfileFrom(from int, left int64, sent *int64) error {
	if s.writeBy.passed() {
		return os.ErrDeadlineExceeded
	}
	err := sendfileSome(s.fd, from, nil, left, sent)
	if errors.Is(err, errAgain) {
		err = s.wait(syscall.RawConn.Write, func(fd uintptr) bool {
			err = sendfileSome(int(fd), from, nil, left, sent)
			return !errors.Is(err, errAgain)
		}, &err)
	}
	return err
}

// sendfileSome sends until the file ends, sent reaches left, or the socket takes no more (errAgain). It reads at the offset, which moves on; nil is
// the file's own.
func sendfileSome(to, from int, offset *int64, left int64, sent *int64) error {
	for *sent < left {
		n, err := unix.Sendfile(to, from, offset, int(min(left-*sent, sendfileChunk)))
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return errAgain
		case err != nil:
			return os.NewSyscallError("sendfile", err)
		case n == 0:
			return nil
		}
		*sent += int64(max(n, 0))
	}
	return nil
}
