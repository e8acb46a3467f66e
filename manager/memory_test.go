package manager

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAPeerIsNotedAsItIs(t *testing.T) {
	var untold peerNote
	if a, told := untold.addrPort(); told {
		t.Errorf("nobody has told %v", a)
	}
	for _, text := range []string{"192.0.2.1:80", "[2001:db8::1]:65535", "0.0.0.0:0", "[::]:1"} {
		want := netip.MustParseAddrPort(text)
		note := notePeer(want)
		if got, told := note.addrPort(); !told || got != want {
			t.Errorf("%v is noted as %v, %v", want, got, told)
		}
	}
	mapped := notePeer(netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"))
	if got, _ := mapped.addrPort(); got != netip.MustParseAddrPort("192.0.2.1:80") {
		t.Errorf("an IPv4 address in IPv6's clothes is noted as %v", got)
	}
}

// reopen opens a memory as a successor would.
func reopen(t *testing.T, m *Memory) (*Memory, error) {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenMemory(fd)
	if err != nil {
		closeFD(fd)
		return nil, err
	}
	t.Cleanup(func() { _ = again.Close() })
	return again, nil
}

func TestNotesAreReadAsTheyWereWritten(t *testing.T) {
	m := smallMemory(t)
	for i := range 5 { // into one half and into the other
		key := fmt.Sprint("socket ", i)
		if err := keep(m, key, Kept{FD: i, Owned: i%2 == 0}); err != nil {
			t.Fatal(err)
		}
		again, err := reopen(t, m)
		if err != nil {
			t.Fatal(err)
		}
		if k, ok := again.Kept(key); !ok || k != (Kept{FD: i, Owned: i%2 == 0}) {
			t.Errorf("%s is %+v, %v", key, k, ok)
		}
		if _, ok := again.Kept("nothing"); ok {
			t.Error("there is something under a key that nobody has used")
		}
	}
}

// Whoever dies while he writes has left what was there before.
func TestNotesThatWereBeingWrittenDoNotCount(t *testing.T) {
	m := smallMemory(t)
	if err := keep(m, "before", Kept{FD: 7}); err != nil {
		t.Fatal(err)
	}
	copy(m.noteBytes(1-m.head.current), `{"half":`)
	again, err := reopen(t, m)
	if err != nil {
		t.Fatal(err)
	}
	if k, _ := again.Kept("before"); k.FD != 7 {
		t.Errorf("the notes are lost: %+v", k)
	}
}

func TestForeignMemoryIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Memory){
		"another layout": func(m *Memory) { m.head.layout++ },
		"no memory":      func(m *Memory) { m.head.magic = [8]byte{} },
		"broken notes":   func(m *Memory) { m.noteBytes(m.head.current)[0] = '?' },
	} {
		t.Run(name, func(t *testing.T) {
			m := smallMemory(t)
			if err := keep(m, "a", Kept{}); err != nil {
				t.Fatal(err)
			}
			spoil(m)
			if _, err := reopen(t, m); !errors.Is(err, ErrForeignMemory) {
				t.Errorf("%v", err)
			}
		})
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(null)
	if _, err := OpenMemory(null); !errors.Is(err, ErrForeignMemory) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestALinksPartIsEmptyWhenItIsUsedAgain(t *testing.T) {
	m := smallMemory(t)
	note := m.unusedLink()
	note.state, note.fd, note.hello[9], note.out[100] = linkAttached, 5, 'x', 7
	if other := m.unusedLink(); other == note {
		t.Fatal("a part in use is given out")
	}
	m.freeLink(note)
	if again := m.unusedLink(); again != note || note.fd != 0 || note.hello[9] != 0 || note.out[100] != 0 {
		t.Errorf("the part is not empty, or not the first: %v", again == note)
	}
}

// Successors that die at once are not followed by more of them for ever.
func TestSuccessorsThatDieAtOnceAreGivenUp(t *testing.T) {
	m := smallMemory(t)
	for range maxUnsettled {
		next, err := Succeed(Config{Memory: m}, Estate{})
		if err != nil {
			t.Fatal(err)
		}
		if err := next.sel.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Succeed(Config{Memory: m}, Estate{}); !errors.Is(err, ErrHopeless) {
		t.Errorf("%v", err)
	}
}

// A successor whose loop has turned may be killed: it has not died of what it inherited, however many
// are killed before they serve.
func TestSuccessorsThatAreKilledAreNotGivenUp(t *testing.T) {
	m := smallMemory(t)
	for range 2 * maxUnsettled {
		next, err := Succeed(Config{Memory: m}, Estate{})
		if err != nil {
			t.Fatal(err)
		}
		died := make(chan any)
		go func() {
			defer func() { died <- recover() }()
			_ = next.Run()
		}()
		for on := false; !on; time.Sleep(time.Millisecond) { // before, a command runs at once
			next.mu.Lock()
			on = next.running
			next.mu.Unlock()
		}
		for range 2 { // the first may be obeyed in the first turn, the second is obeyed behind it
			if err := next.tell(func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		next.post(func() { panic(death{}) })
		if got := <-died; got != (death{}) {
			t.Fatalf("the loop ended with %v", got)
		}
		if err := next.sel.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSuccessorsThatGiveUpAreCounted(t *testing.T) {
	m := smallMemory(t)
	for n := 1; n <= maxFailures; n++ {
		if another := m.CountFailure(); another != (n < maxFailures) {
			t.Errorf("after %d failures another may try: %v", n, another)
		}
	}
	m.Forgive()
	if !m.CountFailure() {
		t.Error("failures before one that served count")
	}
}

// What an operator has changed holds on, until the configuration says otherwise.
func TestLimitsOutliveTheProcess(t *testing.T) {
	m := smallMemory(t)
	configured := Limits{Hosts: 5}
	first, err := New(Config{Memory: m, Limits: configured})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.SetLimits(t.Context(), Limits{Hosts: 7}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ configured, want int }{{5, 7}, {9, 9}} {
		next, err := Succeed(Config{Memory: m, Limits: Limits{Hosts: c.configured}}, Estate{})
		if err != nil {
			t.Fatal(err)
		}
		if got := next.policy.limits; got.Hosts != c.want || got.Queue == 0 {
			t.Errorf("configured %d hosts: %d, with a queue of %d; want %d", c.configured, got.Hosts, got.Queue, c.want)
		}
		if err := next.sel.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.sel.Close(); err != nil {
		t.Fatal(err)
	}
}

// keep notes one socket more.
func keep(m *Memory, key string, k Kept) error {
	all := maps.Clone(m.notes.Sockets)
	if all == nil {
		all = map[string]Kept{}
	}
	all[key] = k
	_, err := m.KeepOnly(all)
	return err
}

func TestKeepOnlyTellsWhatIsForgotten(t *testing.T) {
	m, err := newMemory(dimensions{slots: chunkSize, links: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if forgotten, err := m.KeepOnly(map[string]Kept{"a": {FD: 1}, "b": {FD: 2, Owned: true}}); len(forgotten) != 0 || err != nil {
		t.Errorf("%v, %v", forgotten, err)
	}
	forgotten, err := m.KeepOnly(map[string]Kept{"a": {FD: 1}, "c": {FD: 3}})
	if want := (Kept{FD: 2, Owned: true}); len(forgotten) != 1 || forgotten["b"] != want || err != nil {
		t.Errorf("%v, %v", forgotten, err)
	}
	if _, known := m.Kept("b"); known {
		t.Error("b is still there")
	}
}

// Cut short by whoever has the descriptor, the memory would end every process that touches it
// (SIGBUS, mmap(2)).
func TestTheMemoryCannotBeCutShort(t *testing.T) {
	m, err := NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := unix.Ftruncate(m.FD(), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("ftruncate: %v, want EPERM", err)
	}
}

// As many hosts and newcomers as may be configured have room.
func TestTheMemoryHasRoomForEveryHost(t *testing.T) {
	if err := (Limits{Hosts: maxHosts, Newcomers: maxNewcomers}).Check(); err != nil {
		t.Error(err)
	}
	if (Limits{Hosts: maxHosts + 1}).Check() == nil || (Limits{Newcomers: maxNewcomers + 1}).Check() == nil {
		t.Error("more may be configured")
	}
	if fullSize.links < maxHosts+maxNewcomers {
		t.Errorf("there is room for %d", fullSize.links)
	}
}
