package blocking

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/fusetest"
)

// A file system that does not answer holds a helper, and no more: the number is free, others are
// done, and the helper is used again when it is back.
func TestAFileThatHangsHoldsOneHelper(t *testing.T) {
	for hang, job := range map[fusetest.Hang]Op{fusetest.Flush: Close, fusetest.Stat: Check} {
		t.Run(string(hang), func(t *testing.T) {
			fs := fusetest.Mount(t, hang)
			b := newBench(t, 4)
			fd := fs.Open(t)
			var r results
			b.Do(&Job{Op: job, File: true, Source: fd, FDs: []int32{int32(fd)}, Done: r.take}, b.now())
			b.turnUntil(func() bool { return len(r.all) == 1 })
			if r.all[0].Outcome != Stuck && hang == fusetest.Flush || b.Stuck() > 1 {
				t.Errorf("%+v, %d stuck", r.all[0], b.Stuck())
			}
			if r := b.do(Job{Op: Check, Source: b.event}); r.Outcome != Done {
				t.Errorf("others: %+v", r)
			}
			fs.Release()
			b.turnUntil(func() bool { return b.Stuck() == 0 })
			_ = unix.Close(fd)
		})
	}
}

// Files that hang get no more than their share of the helpers.
func TestFilesThatHangLeaveHelpersToOthers(t *testing.T) {
	fs := fusetest.Mount(t, fusetest.Flush)
	b := newBench(t, 4)
	var r results
	for range 5 {
		fd := fs.Open(t)
		t.Cleanup(func() { _ = unix.Close(fd) })
		b.Do(&Job{Op: Close, File: true, FDs: []int32{int32(fd)}, Done: r.take}, b.now())
	}
	b.turnUntil(func() bool { return len(r.all) == 3 })
	if b.Stuck() != 3 || b.FilesLeft() || b.Waiting() != 2 {
		t.Errorf("%d stuck, %d wait, files left %v", b.Stuck(), b.Waiting(), b.FilesLeft())
	}
	if r := b.do(Job{Op: Check, Source: b.event}); r.Outcome != Done {
		t.Errorf("others: %+v", r)
	}
	fs.Release()
	b.turnUntil(func() bool { return b.Stuck() == 0 && len(r.all) == 5 })
}
