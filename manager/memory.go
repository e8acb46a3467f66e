package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/internal/blocking"
	"github.com/anteroom-io/anteroom/listener"
)

// Memory is what a manager needs to remember to go on with its connections, in a file of memory (memfd_create(2)) that may outlive the process. A successor
// that has the same descriptors under the same numbers takes over with it (succeed.go).
//
// It is sparse: pages that nothing was written to cost nothing. What says where something stands is changed by single stores, in such an order that
// a process may be killed between any two of them.
type Memory struct {
	fd    int
	bytes []byte
	head  *head
	size  dimensions

	mu    sync.Mutex
	notes notes // as written; mu
}

// dimensions are how much a memory can hold.
type dimensions struct{ slots, links int }

// fullSize is what a Memory holds at most: 20 GiB of addresses, most of which stay without memory.
var fullSize = dimensions{slots: maxSlots, links: maxHosts + maxNewcomers}

// layoutVersion is raised when the meaning of a field changes without its size.
const layoutVersion = 3

// head begins a memory.
type head struct {
	magic       [8]byte
	layout      uint64 // fingerprint of layoutVersion and of all sizes
	slots       uint64
	links       uint64
	base        int64  // CLOCK_MONOTONIC, ns, when the policy's clock was 0
	serial      uint64 // of the last entrance or link
	fresh       uint32 // table.fresh
	lastHost    HostID
	successions uint64
	unsettled   uint32 // successions in a row that have not come as far as a turn of the loop
	failures    uint32 // successions in a row that have given up before they served
	topLink     uint32 // link parts from here on have never been used
	current     uint32 // which of the two notes holds
	owner       uint32 // who owns it all (Owner)
	offers      uint32 // the last that was offered (Offer)
	lengths     [2]uint32
	totals      Totals
	classes     [256]classNote
	helpers     [MaxHelpers]blocking.Slot
	closing     numbers // descriptors that helpers are to close
}

// classNote is an idleClass without its list.
type classNote struct {
	timeout int64
	kind    wait
}

// noteRoom is the room for the notes, twice, so that one of them is always whole.
const noteRoom = 4 << 20

// extra is what only some connections need.
type extra struct {
	rest remainder
	peer peerNote
	base base
	flow flowNote
	// bringer is the host that has brought the connection by ADOPT; 0 if it was accepted, and in
	// slots without a connection.
	bringer HostID
}

// peerNote is a netip.AddrPort without pointers.
type peerNote struct {
	address [16]byte
	port    uint16
	kind    peerKind
}

type peerKind uint8

const (
	peerUntold peerKind = iota
	peerV4
	peerV6
)

// notePeer of no address is none told.
func notePeer(a netip.AddrPort) peerNote {
	if !a.IsValid() {
		return peerNote{}
	}
	kind := peerV6
	if a.Addr().Unmap().Is4() {
		kind = peerV4
	}
	return peerNote{address: a.Addr().Unmap().As16(), port: a.Port(), kind: kind}
}

// addrPort is the reverse of notePeer; told is false if there was none.
func (n *peerNote) addrPort() (a netip.AddrPort, told bool) {
	address := netip.AddrFrom16(n.address)
	if n.kind == peerV4 {
		address = address.Unmap()
	}
	return netip.AddrPortFrom(address, n.port), n.kind != peerUntold
}

// linkNote is what is known of a link, with its frames.
type linkNote struct {
	state    linkState // written last when it begins, and first when it ends
	fd       int32
	pid      int32
	uid, gid uint32
	process  int32 // a descriptor of its process; 0: none
	token    uint64
	host     hostState
	hello    [handoff.MaxPayload]byte
	helloLen uint32
	in       [handoff.InboxSize / 8]uint64 // aligned
	out      [handoff.OutboxSize / 8]uint64
}

func bytesOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

type linkState uint32

const (
	linkFree     linkState = iota
	linkYoung              // no HELLO yet
	linkAttached           // a host's
)

// notes are what changes seldom.
type notes struct {
	Epoch   string          `json:"epoch"`
	Limits  Limits          `json:"limits"`     // those set at run time, the others zero
	Config  Limits          `json:"configured"` // as they were configured
	Stopped bool            `json:"stopped"`
	Pools   []poolNote      `json:"pools"`
	Doors   []doorNote      `json:"doors"`
	Sockets map[string]Kept `json:"sockets"`
}

type poolNote struct {
	Index   uint16 `json:"index"`
	Name    string `json:"name"`
	Private bool   `json:"private"`
}

type doorNote struct {
	ID          ListenerID        `json:"id"`
	Index       uint16            `json:"index"`
	FD          int               `json:"fd"` // -1: closed
	Name        string            `json:"name"`
	Key         string            `json:"key"`
	Pool        uint16            `json:"pool"`
	Link        uint64            `json:"link"` // of the host that brought it; 0: the sidecar's own
	Ready       Readiness         `json:"ready"`
	SilentLease bool              `json:"silent_lease"`
	Edge        bool              `json:"edge"`
	Shared      bool              `json:"shared"`
	FirstByte   time.Duration     `json:"first_byte"`
	Proxies     []listener.Subnet `json:"proxies"`
	Accepted    uint64            `json:"accepted"`
}

// Kept is a listening socket that the sidecar keeps for its successor.
type Kept struct {
	FD     int  `json:"fd"`
	Shared bool `json:"shared"` // other processes may hold it
	Owned  bool `json:"owned"`  // the file of a Unix socket is its own to remove
}

var magic = [8]byte{'a', 'n', 't', 'e', 'r', 'o', 'o', 'm'}

// The parts of a memory lie one after another, each on pages of its own.
func (d dimensions) offsets() (noteAt, linkAt, extraAt, recordAt, total int) {
	page := unix.Getpagesize()
	up := func(n int) int { return (n + page - 1) / page * page }
	noteAt = up(int(unsafe.Sizeof(head{})))
	linkAt = noteAt + 2*noteRoom
	extraAt = linkAt + d.links*linkSpace()
	recordAt = extraAt + up(d.slots*int(unsafe.Sizeof(extra{})))
	return noteAt, linkAt, extraAt, recordAt, recordAt + up(d.slots*int(unsafe.Sizeof(record{})))
}

func linkSpace() int {
	page := unix.Getpagesize()
	return (int(unsafe.Sizeof(linkNote{})) + page - 1) / page * page
}

// fingerprint differs where two programs would read a memory differently.
func fingerprint() uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, layoutVersion, unsafe.Sizeof(head{}), unsafe.Sizeof(record{}), unsafe.Sizeof(extra{}), unsafe.Sizeof(linkNote{}), handoff.InboxSize, handoff.OutboxSize)
	return h.Sum64()
}

// NewMemory makes an empty one.
func NewMemory() (*Memory, error) { return newMemory(fullSize) }

func newMemory(size dimensions) (*Memory, error) {
	fd, err := unix.MemfdCreate("anteroom", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	_, _, _, _, total := size.offsets()
	if err := unix.Ftruncate(fd, int64(total)); err != nil {
		return nil, errors.Join(fmt.Errorf("ftruncate of the connections' memory to %d bytes, of which only what is used will cost: %w", total, err), unix.Close(fd))
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, errors.Join(fmt.Errorf("fcntl(F_ADD_SEALS): %w", err), unix.Close(fd)) // cut short, it would end us by SIGBUS
	}
	m, err := mapMemory(fd, size)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	m.head.layout, m.head.slots, m.head.links = fingerprint(), uint64(size.slots), uint64(size.links)
	m.head.base = monotonic()
	m.head.magic = magic
	return m, nil
}

func mapMemory(fd int, size dimensions) (*Memory, error) {
	_, _, _, _, total := size.offsets()
	b, err := unix.Mmap(fd, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap of the connections' memory: %w", err)
	}
	return &Memory{fd: fd, bytes: b, size: size, head: (*head)(unsafe.Pointer(unsafe.SliceData(b)))}, nil
}

// ErrForeignMemory means that a memory is not one, or was made by a program that is too different.
var ErrForeignMemory = errors.New("the connections' memory was not made by this version of the program, or one that it understands")

// OpenMemory takes over a predecessor's memory. It changes nothing in it. Error: ErrForeignMemory.
func OpenMemory(fd int) (*Memory, error) {
	var h head
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))
	if n, err := unix.Pread(fd, raw, 0); err != nil || n != len(raw) {
		return nil, fmt.Errorf("%w: pread: %d bytes, %w", ErrForeignMemory, n, err)
	}
	if h.magic != magic || h.layout != fingerprint() {
		return nil, fmt.Errorf("%w: layout %x, here it is %x", ErrForeignMemory, h.layout, fingerprint())
	}
	m, err := mapMemory(fd, dimensions{int(h.slots), int(h.links)})
	if err != nil {
		return nil, err
	}
	if err := m.readNotes(); err != nil {
		return nil, errors.Join(err, m.unmap())
	}
	return m, nil
}

// Owner is a word that says who owns what the memory is about: a new number for each process that another has handed over to, and when the last one wants
// nobody to follow. A successor after a death has its predecessor's.
func (m *Memory) Owner() *uint32 { return &m.head.owner }

// Offer is a number for Owner that it has never said, nor the next one.
func (m *Memory) Offer() uint32 {
	m.head.offers += 2
	return m.head.offers
}

// Forgive forgets that successors have died: what they died of was their own, not what they had inherited.
func (m *Memory) Forgive() { m.head.unsettled, m.head.failures = 0, 0 }

// CountFailure notes that this successor gives up before it serves. It returns false once as many in a
// row have as may: another would fail, too. A successor that is killed does not count.
func (m *Memory) CountFailure() (another bool) {
	m.head.failures++
	return m.head.failures < maxFailures
}

// FD is the descriptor that a successor is told.
func (m *Memory) FD() int { return m.fd }

func (m *Memory) unmap() error { return unix.Munmap(m.bytes) }

// Close lets go of the memory.
func (m *Memory) Close() error { return errors.Join(m.unmap(), unix.Close(m.fd)) }

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail (clock_gettime(2))
	return now.Nano()
}

func (m *Memory) records(chunk int) *[chunkSize]record {
	_, _, _, at, _ := m.size.offsets()
	at += chunk * int(unsafe.Sizeof([chunkSize]record{}))
	return (*[chunkSize]record)(unsafe.Pointer(&m.bytes[at]))
}

func (m *Memory) extra(slot uint32) *extra {
	_, _, at, _, _ := m.size.offsets()
	return (*extra)(unsafe.Pointer(&m.bytes[at+int(slot)*int(unsafe.Sizeof(extra{}))]))
}

func (m *Memory) link(n int) *linkNote {
	_, at, _, _, _ := m.size.offsets()
	return (*linkNote)(unsafe.Pointer(&m.bytes[at+n*linkSpace()]))
}

// unusedLink is a part of the memory for one more link; nil if there is none.
func (m *Memory) unusedLink() *linkNote {
	for n := range m.size.links {
		if note := m.link(n); note.state == linkFree {
			m.head.topLink = max(m.head.topLink, uint32(n+1))
			return note
		}
	}
	return nil
}

// freeLink clears a link's part, and gives its pages back.
func (m *Memory) freeLink(n *linkNote) {
	n.state = linkFree
	at := int(uintptr(unsafe.Pointer(n)) - uintptr(unsafe.Pointer(unsafe.SliceData(m.bytes))))
	if err := unix.Madvise(m.bytes[at:at+linkSpace()], unix.MADV_REMOVE); err != nil {
		clear(m.bytes[at : at+linkSpace()])
	}
}

// update changes the notes. The old ones hold until the new ones are whole.
func (m *Memory) update(change func(*notes)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.notes)
	b, err := json.Marshal(&m.notes)
	if err != nil {
		return fmt.Errorf("notes for a successor: %w", err)
	}
	if len(b) > noteRoom {
		return fmt.Errorf("notes for a successor: %d bytes, there is room for %d", len(b), noteRoom)
	}
	next := 1 - m.head.current
	copy(m.noteBytes(next), b)
	m.head.lengths[next] = uint32(len(b))
	m.head.current = next
	return nil
}

func (m *Memory) noteBytes(which uint32) []byte {
	at, _, _, _, _ := m.size.offsets()
	at += int(which) * noteRoom
	return m.bytes[at : at+noteRoom]
}

func (m *Memory) readNotes() error {
	which := m.head.current % 2
	b := m.noteBytes(which)[:min(m.head.lengths[which], noteRoom)]
	if err := json.Unmarshal(b, &m.notes); err != nil {
		return fmt.Errorf("%w: notes: %w", ErrForeignMemory, err)
	}
	return nil
}

// KeepOnly notes the listening sockets for the successor, under keys of the caller's; Kept finds
// them again. It returns those that were noted under other keys.
func (m *Memory) KeepOnly(sockets map[string]Kept) (forgotten map[string]Kept, err error) {
	err = m.update(func(n *notes) {
		forgotten = maps.Clone(n.Sockets)
		for key := range sockets {
			delete(forgotten, key)
		}
		n.Sockets = sockets
	})
	return forgotten, err
}

// Kept returns what the predecessor has kept.
func (m *Memory) Kept(key string) (k Kept, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok = m.notes.Sockets[key]
	return k, ok
}
