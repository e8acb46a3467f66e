package selector

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// table is the set of the registered descriptors, one bit each, at the descriptor's number. The kernel has their tokens.
type table struct {
	words atomic.Pointer[[]word] // replaced by a longer copy when a number is too high
	count atomic.Int64

	mu sync.Mutex // everything but has and count
}

type word = atomic.Uint64

const (
	wordBits   = 64
	leastWords = 16 // 1024 descriptors
)

func placeOf(fd int) (at int, bit uint64) { return fd / wordBits, 1 << (fd % wordBits) }

func (t *table) all() []word {
	if words := t.words.Load(); words != nil {
		return *words
	}
	return nil
}

// has needs no lock.
func (t *table) has(fd int) bool {
	words := t.all()
	at, bit := placeOf(fd)
	return at < len(words) && words[at].Load()&bit != 0
}

// addLocked reports whether fd was there already.
func (t *table) addLocked(fd int) (before bool) {
	at, bit := placeOf(fd)
	if at >= len(t.all()) {
		t.growLocked(at + 1)
	}
	if t.all()[at].Or(bit)&bit != 0 {
		return true
	}
	t.count.Add(1)
	return false
}

// dropLocked reports whether fd was there.
func (t *table) dropLocked(fd int) bool {
	if !t.has(fd) {
		return false
	}
	at, bit := placeOf(fd)
	t.all()[at].And(^bit)
	t.count.Add(-1)
	return true
}

func (t *table) growLocked(need int) {
	old := t.all()
	longer := make([]word, max(need, 2*len(old), leastWords))
	for i := range old {
		longer[i].Store(old[i].Load())
	}
	t.words.Store(&longer)
}

// snapshot is a copy, of one moment.
func (t *table) snapshot() []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	words := t.all()
	set := make([]uint64, len(words))
	for i := range words {
		set[i] = words[i].Load()
	}
	return set
}

func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.words.Store(nil)
	t.count.Store(0)
}

// eachOf calls yield for the numbers in a snapshot, in rising order, until it says false.
func eachOf(set []uint64, yield func(int) bool) {
	for at, left := range set {
		for ; left != 0; left &= left - 1 {
			if !yield(at*wordBits + bits.TrailingZeros64(left)) {
				return
			}
		}
	}
}
