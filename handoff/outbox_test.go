package handoff

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// queue adds n frames numbered from first; every nth gets the next of fds. It returns what the receiver must see.
func queue(t testing.TB, out *Outbox, first, n, nth int, fds []int) []arrival {
	t.Helper()
	var want []arrival
	for i := first; i < first+n; i++ {
		f := Frame{Type: TypeLease, Conn: uint64(i)}
		a := arrival{conn: f.Conn}
		if nth > 0 && i%nth == 0 && len(fds) > 0 {
			a.inode = inode(t, fds[0])
			out.AddFD(&f, fds[0])
			fds = fds[1:]
		} else {
			out.Add(&f)
		}
		want = append(want, a)
	}
	return want
}

func TestPlainFramesTravelTogether(t *testing.T) {
	a, b := socketPair(t)
	fd := descriptors(t, 1)
	var out Outbox
	var in Inbox
	defer in.Close()
	queue(t, &out, 1, 100, 0, nil)
	queue(t, &out, 101, 1, 1, fd)
	queue(t, &out, 102, 100, 0, nil)
	if err := out.Flush(a); err != nil {
		t.Fatal(err)
	}
	// Three messages: plain, the descriptor's, plain. The kernel merges the first two.
	for i, want := range []int{101, 100} {
		if err := in.Recv(b); err != nil {
			t.Fatal(err)
		}
		if got, err := takeFrames(t, &in); err != nil || len(got) != want {
			t.Errorf("recvmsg %d brought %d frames, %v; want %d", i+1, len(got), err, want)
		}
	}
	if err := in.Recv(b); !errors.Is(err, ErrAgain) {
		t.Errorf("there is more: %v", err)
	}
}

func TestADescriptorsFrameIsAMessageOfItsOwn(t *testing.T) {
	a, b := socketPair(t)
	fds := descriptors(t, 3)
	var out Outbox
	want := queue(t, &out, 1, 3, 1, fds)
	if err := out.Flush(a); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		got := receive(t, b, roomy, roomy, 0)
		if len(got.bytes) != HeaderSize || len(got.fds) != 1 || inode(t, got.fds[0]) != want[i].inode {
			t.Errorf("message %d: %d bytes, %d descriptors", i, len(got.bytes), len(got.fds))
		}
	}
}

// What the peer has not room for stays in order, and its descriptors may be closed by their owner meanwhile.
func TestWhatWaitsKeepsItsOrderAndItsDescriptors(t *testing.T) {
	a, b := socketPair(t)
	var out Outbox
	var in Inbox
	defer in.Close()
	defer out.Close()
	var want, got []arrival
	for round := range 4 {
		pair := descriptors(t, 100)
		want = append(want, queue(t, &out, 1+round*300, 300, 3, pair)...)
		if err := out.Flush(a); err != nil && !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		for _, fd := range pair {
			if err := unix.Dup3(a, fd, unix.O_CLOEXEC); err != nil { // the number now means something else
				t.Fatal(err)
			}
		}
	}
	if out.Len() == 0 {
		t.Fatal("everything fit the socket's buffer, nothing had to wait")
	}
	for {
		more, err := takeAll(t, &in, b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
		err = out.Flush(a)
		if err != nil && !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		if err == nil && out.Len() == 0 && len(got) == len(want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d frames came in another order or with other descriptors than %d sent", len(got), len(want))
	}
}

func TestCloseDropsWhatWaits(t *testing.T) {
	a, b := socketPair(t)
	w := newWard(t)
	var out Outbox
	for i := range 1000 {
		out.AddFD(&Frame{Type: TypeLease, Conn: uint64(i)}, w.fd)
	}
	if err := out.Flush(a); !errors.Is(err, ErrAgain) {
		t.Fatalf("%v, want ErrAgain", err)
	}
	out.Close()
	if out.Len() != 0 {
		t.Errorf("%d bytes wait after Close", out.Len())
	}
	var in Inbox
	if _, err := takeAll(t, &in, b); err != nil {
		t.Error(err)
	}
	if w.drop(); !w.gone() {
		t.Error("a duplicate has leaked")
	}
}

func TestFlushToAPeerThatHasGone(t *testing.T) {
	checkDescriptors(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(pair[0])
	closeFD(pair[1])
	var out Outbox
	defer out.Close()
	out.AddFD(&Frame{Type: TypeLease}, pair[0])
	wantEOF(t, out.Flush(pair[0]))
}

// The kernel bounds the descriptors that a user without privileges may have in flight by that user's RLIMIT_NOFILE (unix(7)).
func TestTooManyDescriptorsInFlight(t *testing.T) {
	if !inChild(t, childUnprivileged) {
		return
	}
	a, b := socketPair(t)
	w := newWard(t)
	limitDescriptors(t, 48)
	var out Outbox
	var in Inbox
	defer in.Close()
	defer out.Close()
	sent := 0
	var err error
	for ; err == nil && sent < 200; sent++ {
		out.AddFD(&Frame{Type: TypeLease, Conn: uint64(sent)}, w.fd)
		err = out.Flush(a)
	}
	if !errors.Is(err, ErrRightsLimit) {
		t.Fatalf("%d descriptors in flight, %v; want ErrRightsLimit", sent, err)
	}
	w.drop() // the one that waits is a duplicate
	got, err := takeAll(t, &in, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Flush(a); err != nil {
		t.Errorf("Flush after the peer has read: %v", err)
	}
	more, err := takeAll(t, &in, b)
	if got = append(got, more...); err != nil || len(got) != sent {
		t.Fatalf("%d of %d frames, %v", len(got), sent, err)
	}
	for i := range got {
		if got[i].conn != uint64(i) || got[i].inode == 0 {
			t.Errorf("frame %d: %+v", i, got[i])
		}
	}
	if !w.gone() {
		t.Error("a duplicate has leaked")
	}
}

func TestSendingAllocatesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		add  func(out *Outbox, f *Frame, fd int)
	}{
		{"plain", func(out *Outbox, f *Frame, _ int) { out.Add(f) }},
		{"with a descriptor", func(out *Outbox, f *Frame, fd int) { out.AddFD(f, fd) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := socketPair(t)
			fd := descriptors(t, 1)[0]
			var out Outbox
			var in Inbox
			defer in.Close()
			defer out.Close()
			lease := Frame{Type: TypeLease, Conn: 1}
			if n := testing.AllocsPerRun(100, func() {
				test.add(&out, &lease, fd)
				test.add(&out, &lease, fd)
				if err := out.Flush(a); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%v allocations per run", n)
			}
			if got, err := takeAll(t, &in, b); err != nil || len(got) != 202 { // one run more, to warm up
				t.Errorf("%d frames came, %v", len(got), err)
			}
		})
	}
}
