package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// patience is for what has to happen; it passes in full only where a test fails.
const patience = 20 * time.Second

// stalled is a reader that takes nothing until it is let go.
type stalled struct {
	asked chan struct{} // one token for each Write that has begun
	goOn  chan struct{}
	got   bytes.Buffer
}

func newStalled() *stalled {
	return &stalled{asked: make(chan struct{}, 1000), goOn: make(chan struct{})}
}

func (s *stalled) Write(b []byte) (int, error) {
	s.asked <- struct{}{}
	<-s.goOn
	return s.got.Write(b)
}

// Write returns though the reader takes nothing; what does not fit is dropped, counted and reported
// once the reader goes on.
func TestLinesAreDroppedWhileTheReaderStalls(t *testing.T) {
	out, reported := newStalled(), []uint64{}
	q := New(out)
	q.OnDrop(func(lines uint64) {
		reported = append(reported, lines)
		fmt.Fprintf(q, "dropped %d\n", lines)
	})
	line := []byte(strings.Repeat("x", 1023) + "\n")
	_, _ = q.Write(line)
	<-out.asked // the writer has the first line, the queue is empty
	const fit, over = Room / 1024, 7
	for range fit + over {
		if n, err := q.Write(line); n != len(line) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if n := q.Dropped(); n != over {
		t.Errorf("%d lines were dropped, want %d", n, over)
	}
	if q.Flush(time.Millisecond) {
		t.Error("Flush says that all is written")
	}
	close(out.goOn)
	if !q.Flush(patience) {
		t.Fatal("not written in time")
	}
	if len(reported) != 1 || reported[0] != over {
		t.Errorf("reported %v, want one report of %d", reported, over)
	}
	if n := bytes.Count(out.got.Bytes(), []byte("\n")); n != 1+fit+1 || !strings.Contains(out.got.String(), "dropped 7\n") {
		t.Errorf("%d lines were written, want %d with one that says dropped 7", n, 1+fit+1)
	}
}

// broken fails for a while.
type broken struct {
	fails bool
	got   bytes.Buffer
}

func (b *broken) Write(p []byte) (int, error) {
	if b.fails {
		return 4, errors.New("EPIPE")
	}
	return b.got.Write(p)
}

// What could not be written counts as dropped, and is reported as soon as something can be written again.
func TestAFailedWriteIsCounted(t *testing.T) {
	out, reported := &broken{fails: true}, uint64(0)
	q := New(out)
	q.OnDrop(func(lines uint64) { reported += lines })
	_, _ = q.Write([]byte("one\n"))
	q.Flush(patience)
	_, _ = q.Write([]byte("two, longer\n"))
	q.Flush(patience)
	if n := q.Dropped(); n != 1 || reported != 0 { // the first line was written before the failure
		t.Errorf("%d dropped, %d reported; want 1 and 0", n, reported)
	}
	out.fails = false
	_, _ = q.Write([]byte("three\n"))
	q.Flush(patience)
	if reported != 1 || out.got.String() != "three\n" {
		t.Errorf("%d reported, %q written", reported, out.got.String())
	}
}

func TestLinesKeepTheirOrder(t *testing.T) {
	out := newStalled()
	close(out.goOn)
	q := New(out)
	var want strings.Builder
	for i := range 500 {
		fmt.Fprintf(q, "line %d\n", i)
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !q.Flush(patience) || out.got.String() != want.String() {
		t.Errorf("%d bytes were written, want %d", out.got.Len(), want.Len())
	}
}
