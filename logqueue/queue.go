// Package logqueue writes a log in the background, so that no reader of the log can block the
// process that logs.
package logqueue

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// Room is how many bytes may wait to be written. A line that does not fit is dropped and counted.
const Room = 512 << 10

// Queue is an io.Writer for a logger: each Write is one line. Write never blocks and never fails. A
// goroutine writes what waits, and ends when nothing waits. Its methods may be called from any
// goroutine.
type Queue struct {
	out io.Writer

	mu      sync.Mutex
	report  func(lines uint64) // mu
	waiting []byte             // mu
	spare   []byte             // mu; the last batch, to be used again
	idle    chan struct{}      // mu; closed when nothing waits any more; nil while nothing does
	dropped uint64             // mu; lines
	told    uint64             // mu; of dropped, those reported
}

// Stderr is the queue of this process's standard error. GuardStderr comes before its first use.
var Stderr = New(standardError{})

// New returns a queue in front of out.
func New(out io.Writer) *Queue { return &Queue{out: out} }

// OnDrop has report called when lines were dropped and others could be written since. report may
// write to the queue.
func (q *Queue) OnDrop(report func(lines uint64)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.report = report
}

// Write queues a line. It always returns len(line), nil.
func (q *Queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+len(line) > Room {
		q.dropped++
		return len(line), nil
	}
	q.waiting = append(q.waiting, line...)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.drain()
	}
	return len(line), nil
}

// Dropped returns how many lines were dropped.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Flush waits until everything is written, at most for timeout. It reports whether everything is.
func (q *Queue) Flush(timeout time.Duration) bool {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return true
	}
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	select {
	case <-idle:
		return true
	case <-limit.C:
		return false
	}
}

// drain writes until nothing waits.
func (q *Queue) drain() {
	for batch := q.take(nil); batch != nil; batch = q.take(batch) {
		n, err := q.out.Write(batch)
		if err != nil {
			q.lose(bytes.Count(batch[n:], []byte("\n")))
			continue
		}
		q.tell()
	}
}

// take returns what waits, nil if nothing does. The batch before it is written and may be used again.
func (q *Queue) take(written []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if written != nil {
		q.spare = written[:0]
	}
	if len(q.waiting) == 0 {
		close(q.idle)
		q.idle = nil
		return nil
	}
	batch := q.waiting
	q.waiting, q.spare = q.spare, nil
	return batch
}

func (q *Queue) lose(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += uint64(lines)
}

// tell reports lines that were dropped, once there is room for the report.
func (q *Queue) tell() {
	if report, lines := q.untold(); lines > 0 {
		report(lines)
	}
}

func (q *Queue) untold() (report func(uint64), lines uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.report == nil || len(q.waiting) > Room/2 {
		return nil, 0
	}
	lines = q.dropped - q.told
	q.told = q.dropped
	return q.report, lines
}
