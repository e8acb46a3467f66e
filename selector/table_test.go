package selector

import (
	"testing"
	"unsafe"
)

func TestTableCostsEightBytesPerDescriptor(t *testing.T) {
	if size := unsafe.Sizeof(chunk{}); size != 8*chunkSlots {
		t.Errorf("a chunk of %d slots has %d bytes", chunkSlots, size)
	}
}

func TestTableMakesOnlyTheChunksThatAreUsed(t *testing.T) {
	var tokens table
	const far = 5*chunkSlots + 3
	if before := tokens.swapLocked(far, 0); before != vacant {
		t.Fatalf("a fresh slot held %#x", before)
	}
	for i, c := range *tokens.chunks.Load() {
		if made := c != nil; made != (i == 5) {
			t.Errorf("chunk %d made: %v", i, made)
		}
	}
	if _, held := tokens.find(far); held != occupied(0) {
		t.Errorf("token 0 is kept as %#x", held)
	}
	for _, fd := range []int{0, far - 1, far + chunkSlots, 1 << 30} {
		if _, held := tokens.find(fd); held != vacant {
			t.Errorf("descriptor %d, never noted, holds %#x", fd, held)
		}
	}
	tokens.swapLocked(1, 9)
	all := tokens.snapshot()
	if len(all) != 2 || all[0] != (registration{1, 9}) || all[1] != (registration{far, 0}) {
		t.Errorf("snapshot is %v", all)
	}
}

func TestTableRestores(t *testing.T) {
	var tokens table
	tokens.restoreLocked(7, tokens.swapLocked(7, 1))
	if tokens.count.Load() != 0 || tokens.dropLocked(7) {
		t.Error("a restored slot is not vacant")
	}
	tokens.swapLocked(7, 1)
	tokens.restoreLocked(7, tokens.swapLocked(7, 2))
	if _, held := tokens.find(7); held != occupied(1) || tokens.count.Load() != 1 {
		t.Errorf("a restored slot holds %#x, count %d", held, tokens.count.Load())
	}
}
