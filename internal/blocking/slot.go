package blocking

import "golang.org/x/sys/unix"

// MaxBatch is how many descriptors one job closes or accepts at most.
const MaxBatch = 128

// Slot is a helper's job and its result, in memory that the helper shares (MAP_SHARED, mmap(2)). A
// successor of the process finds in it what the helper was doing.
type Slot struct {
	state  uint32 // futex(2)
	op     Op
	pid    int32
	pidfd  int32  // 0: no helper; starting: one is being made
	Owner  uint64 // what the job is for: the caller's word
	fd     int32
	file   int32
	length int64
	Offset int64 // of Sendfile; the kernel counts it on

	count int64 // bytes moved, or how many of fds are done
	errno int64
	size  int64 // of Check
	mode  uint32
	_     uint32
	fds   [MaxBatch]int32
	stat  unix.Stat_t
}

// What Slot.pidfd says while there is no descriptor.
const (
	starting   = -1 // the helper may exist, its number is not known yet
	notStarted = -2 // clone(2) failed
)

// The states of a slot.
const (
	slotIdle  uint32 = iota
	slotAsked        // the helper's turn
	slotDone         // the pool's turn
)

// Op is what a helper does.
type Op uint32

// The kinds of jobs.
const (
	Close    Op = iota + 1 // of FDs, which it replaces by a harmless file: the caller closes the numbers
	Accept                 // on FD, until none waits
	Check                  // what File is, and how many bytes it has (fstat(2)), or holds now (a pipe)
	Sendfile               // Length bytes of File, from Offset on, to FD
	Splice                 // Length bytes of the pipe File to FD
)
