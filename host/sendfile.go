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

// readFrom copies r to the client; a regular file, or a part of one by io.LimitReader, does not pass through this process's memory.
func (s *socket) readFrom(r io.Reader) (int64, error) {
	f, limit := fileOf(r)
	if f == nil {
		return io.Copy(writerOnly{s}, r)
	}
	left := int64(1) << 62
	if limit != nil {
		left = limit.N
	}
	n, err := s.sendfile(f, left)
	if limit != nil {
		limit.N -= n
	}
	return n, err
}

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

// sendfile sends at most left bytes from the file's offset on, which moves with them.
func (s *socket) sendfile(f *os.File, left int64) (sent int64, err error) {
	source, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if !s.acquire() {
		return 0, os.ErrClosed
	}
	defer s.release()
	controlErr := source.Control(func(from uintptr) {
		err = s.sendfileFrom(int(from), left, &sent)
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
	err := sendfileSome(s.fd, from, left, sent)
	if errors.Is(err, errAgain) {
		err = s.wait(syscall.RawConn.Write, func(fd uintptr) bool {
			err = sendfileSome(int(fd), from, left, sent)
			return !errors.Is(err, errAgain)
		}, &err)
	}
	return err
}

// sendfileSome sends until the file ends, sent reaches left, or the socket takes no more (errAgain).
func sendfileSome(to, from int, left int64, sent *int64) error {
	for *sent < left {
		n, err := unix.Sendfile(to, from, nil, int(min(left-*sent, sendfileChunk)))
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

// writerOnly hides readFrom from io.Copy.
type writerOnly struct{ s *socket }

func (w writerOnly) Write(p []byte) (int, error) { return w.s.write(p) }
