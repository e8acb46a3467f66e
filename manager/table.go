package manager

// chunkBits sets how many records the table grows by: 1024, 64 KiB.
const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
)

// table holds every connection, by slot. It only grows: a slot that is free again is used again, with the next generation. Records lie in the memory
// and never move, so pointers to them stay good until remove.
type table struct {
	memory *Memory
	chunks []*[chunkSize]record
	free   list // of slots that have been used before
	live   int
	fresh  uint32 // slots from here on have never been used
}

func (t *table) at(slot uint32) *record { return &t.chunks[slot>>chunkBits][slot%chunkSize] }

// find returns the connection's record, nil if it is gone or never was.
func (t *table) find(id ConnID) *record {
	slot := id.slot()
	if slot >= t.fresh {
		return nil
	}
	if r := t.at(slot); r.generation == id.generation() && r.state != Free {
		return r
	}
	return nil
}

// add takes a free slot for a new connection; ok is false when all slots are in use. Only generation is set.
func (t *table) add() (r *record, slot uint32, ok bool) {
	switch {
	case t.free.first != 0:
		slot = t.free.first - 1
		t.unlink(&t.free, slot)
	case int(t.fresh) < t.memory.size.slots:
		slot = t.fresh
		if slot%chunkSize == 0 {
			t.chunks = append(t.chunks, t.memory.records(len(t.chunks)))
		}
		t.fresh++
		t.memory.head.fresh = t.fresh
	default:
		return nil, 0, false
	}
	r = t.at(slot)
	*r = record{generation: r.generation + 1}
	t.live++
	return r, slot, true
}

// remove frees the slot. One whose generations are used up stays unused, so that no id comes twice.
func (t *table) remove(slot uint32) {
	r := t.at(slot)
	*r = record{generation: r.generation}
	t.live--
	if r.generation < maxGeneration {
		t.push(&t.free, slot)
	}
}

// list is a chain of records through their prev and next, oldest first. Links are slots plus one, so that the zero list is empty.
type list struct {
	first, last uint32
	len         int
}

func (t *table) push(l *list, slot uint32) {
	r := t.at(slot)
	r.prev, r.next = l.last, 0
	if l.last != 0 {
		t.at(l.last - 1).next = slot + 1
	} else {
		l.first = slot + 1
	}
	l.last = slot + 1
	l.len++
}

// toFront makes a record of the list its first.
func (t *table) toFront(l *list, slot uint32) {
	t.unlink(l, slot)
	r := t.at(slot)
	r.next = l.first
	if l.first != 0 {
		t.at(l.first - 1).prev = slot + 1
	} else {
		l.last = slot + 1
	}
	l.first = slot + 1
	l.len++
}

func (t *table) unlink(l *list, slot uint32) {
	r := t.at(slot)
	if r.prev != 0 {
		t.at(r.prev - 1).next = r.next
	} else {
		l.first = r.next
	}
	if r.next != 0 {
		t.at(r.next - 1).prev = r.prev
	} else {
		l.last = r.prev
	}
	r.prev, r.next = 0, 0
	l.len--
}

// oldest returns the first of the list; ok is false if it is empty.
func (t *table) oldest(l *list) (r *record, slot uint32, ok bool) {
	if l.first == 0 {
		return nil, 0, false
	}
	return t.at(l.first - 1), l.first - 1, true
}

// each calls f for every connection; f may remove the one it is given.
func (t *table) each(f func(slot uint32, r *record)) {
	for slot := range t.fresh {
		if r := t.at(slot); r.state != Free {
			f(slot, r)
		}
	}
}
