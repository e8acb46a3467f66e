package selector

import (
	"sync"
	"sync/atomic"
)

// table holds the token of each registered descriptor, at the descriptor's number. Chunks are made as numbers come up and never move, so
// that a slot can be read and changed without the lock.
type table struct {
	chunks atomic.Pointer[[]*chunk] // the list is replaced, never changed in place
	count  atomic.Int64

	mu sync.Mutex // which slots are occupied, and the making of chunks
}

const chunkSlots = 1024

type chunk [chunkSlots]slot

// slot holds the token's complement. A fresh chunk is thus vacant everywhere: the complement of the one token that is not allowed is zero.
type slot = atomic.Uint64

const vacant = 0

func occupied(token uint64) uint64 { return ^token }

type registration struct {
	fd    int
	token uint64
}

// find returns the slot of fd and what it holds, vacant and no slot if there is none. It needs no lock.
func (t *table) find(fd int) (*slot, uint64) {
	chunks := t.chunks.Load()
	if chunks == nil || fd/chunkSlots >= len(*chunks) {
		return nil, vacant
	}
	c := (*chunks)[fd/chunkSlots]
	if c == nil {
		return nil, vacant
	}
	s := &c[fd%chunkSlots]
	return s, s.Load()
}

// swapLocked notes the token of fd and returns what the slot held before.
func (t *table) swapLocked(fd int, token uint64) uint64 {
	s, _ := t.find(fd)
	if s == nil {
		s = t.makeLocked(fd)
	}
	before := s.Swap(occupied(token))
	if before == vacant {
		t.count.Add(1)
	}
	return before
}

// restoreLocked undoes a swapLocked.
func (t *table) restoreLocked(fd int, before uint64) {
	s, _ := t.find(fd)
	s.Store(before)
	if before == vacant {
		t.count.Add(-1)
	}
}

// dropLocked forgets fd and reports whether it was there.
func (t *table) dropLocked(fd int) bool {
	s, held := t.find(fd)
	if held == vacant {
		return false
	}
	s.Store(vacant)
	t.count.Add(-1)
	return true
}

// makeLocked makes the chunk of fd. The list is copied, because find may be reading it.
func (t *table) makeLocked(fd int) *slot {
	var grown []*chunk
	if old := t.chunks.Load(); old != nil {
		grown = append(grown, *old...)
	}
	for len(grown) <= fd/chunkSlots {
		grown = append(grown, nil)
	}
	c := new(chunk)
	grown[fd/chunkSlots] = c
	t.chunks.Store(&grown)
	return &c[fd%chunkSlots]
}

func (t *table) snapshot() []registration {
	t.mu.Lock()
	defer t.mu.Unlock()
	chunks := t.chunks.Load()
	if chunks == nil {
		return nil
	}
	all := make([]registration, 0, t.count.Load())
	for i, c := range *chunks {
		if c != nil {
			all = c.appendTo(all, i*chunkSlots)
		}
	}
	return all
}

func (c *chunk) appendTo(all []registration, first int) []registration {
	for i := range c {
		if held := c[i].Load(); held != vacant {
			all = append(all, registration{fd: first + i, token: ^held})
		}
	}
	return all
}

func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chunks.Store(nil)
	t.count.Store(0)
}
