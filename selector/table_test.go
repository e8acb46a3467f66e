package selector

import (
	"slices"
	"testing"
	"unsafe"
)

func members(t *table) (fds []int) {
	eachOf(t.snapshot(), func(fd int) bool {
		fds = append(fds, fd)
		return true
	})
	return fds
}

func TestTableCostsABitPerDescriptor(t *testing.T) {
	var set table
	for fd := range 20_000 {
		set.addLocked(fd)
	}
	if bytes := len(set.all()) * int(unsafe.Sizeof(word{})); bytes > 2*20_000/8 { // it doubles
		t.Errorf("20,000 descriptors take %d bytes", bytes)
	}
}

func TestTableKeepsItsMembersWhenItGrows(t *testing.T) {
	var set table
	want := []int{0, 63, 64, 1023, 1024, 70_001}
	for _, fd := range want {
		if set.has(fd) || set.addLocked(fd) || !set.has(fd) || !set.addLocked(fd) {
			t.Errorf("descriptor %d: is not there exactly once it was added", fd)
		}
	}
	if got := members(&set); !slices.Equal(got, want) || set.count.Load() != int64(len(want)) {
		t.Errorf("members are %v, count %d, want %v", got, set.count.Load(), want)
	}
	for _, fd := range []int{1, 62, 65, 70_000, 70_002, 1 << 30} {
		if set.has(fd) || set.dropLocked(fd) {
			t.Errorf("descriptor %d, never added, is there", fd)
		}
	}
	for _, fd := range want {
		if !set.dropLocked(fd) || set.has(fd) || set.dropLocked(fd) {
			t.Errorf("descriptor %d is not gone exactly once it was dropped", fd)
		}
	}
	if set.count.Load() != 0 || len(members(&set)) != 0 {
		t.Errorf("%v are left, count %d", members(&set), set.count.Load())
	}
}
