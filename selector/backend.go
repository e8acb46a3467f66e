package selector

import "time"

// backend is what each kernel's poller does. Nothing is ever stored in this interface: the type poller of the file that is built is called
// directly, and held against this text by the compiler.
//
// Selector calls open first and close last, wait from one goroutine at a time, the others from any and at the same time. Tokens are
// at most MaxToken and descriptors not negative. Errors are ErrRegistered and ErrNotRegistered, or carry a system call's name and errno.
type backend interface {
	// open acquires what the poller needs. If it fails it holds nothing.
	open() error
	// add starts to watch fd; ErrRegistered if it is watched already.
	add(fd int, token uint64, in Interest) error
	// change replaces token and interest, and arms again. It must not lock, block or allocate unless it fails. ErrNotRegistered if fd is
	// not watched.
	change(fd int, token uint64, in Interest) error
	// remove stops to watch fd; ErrNotRegistered if it is not watched. No wait that begins afterwards reports it.
	remove(fd int) error
	// wait fills events, which has room for 1 to MaxBatch, and says whether a wake ended it. Timeouts and signals as Select promises.
	// It allocates nothing.
	wait(events []Event, timeout time.Duration) (n int, woken bool, err error)
	// wake ends the wait in progress, or else the next one. It never blocks. Wakes that a wait has not yet seen may count as one.
	wake()
	// close gives back what open acquired. No other call is in progress or follows.
	close() error
}

var _ backend = (*poller)(nil)
