package handoff

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// script is a stream of frames and the descriptors that travel with some of them.
type script struct {
	bytes []byte
	marks map[int]int // offset of a frame to the descriptor that comes with it
	want  []arrival
}

// add appends a frame with the next number as its conn; fd is its descriptor unless negative.
func (s *script) add(t testing.TB, payload string, fd int) {
	t.Helper()
	f := Frame{Type: TypeLease, Conn: uint64(len(s.want) + 1), Payload: []byte(payload)}
	a := arrival{conn: f.Conn}
	if fd >= 0 {
		f.Flags |= FlagFD
		s.marks[len(s.bytes)] = fd
		a.inode = inode(t, fd)
	}
	s.bytes = f.Append(s.bytes)
	s.want = append(s.want, a)
}

// mixed is plain frames and frames with descriptors, next to each other and apart, with and without payload.
func mixed(t testing.TB) *script {
	t.Helper()
	fds := descriptors(t, 4)
	s := &script{marks: map[int]int{}}
	s.add(t, "", -1)
	s.add(t, "", fds[0])
	s.add(t, "", fds[1])
	s.add(t, "", -1)
	s.add(t, `{"peer":"127.0.0.1:1"}`, fds[2])
	s.add(t, "x", -1)
	s.add(t, "", -1)
	s.add(t, "", fds[3])
	return s
}

// send writes the part of the stream from one offset to another, a message at a time: a descriptor goes with the first byte of its frame.
func (s *script) send(t testing.TB, sock, from, to int) {
	t.Helper()
	for from < to {
		end := from + 1
		for ; end < to; end++ {
			if _, begins := s.marks[end]; begins {
				break
			}
		}
		var fds []int
		if fd, ok := s.marks[from]; ok {
			fds = []int{fd}
		}
		send(t, sock, string(s.bytes[from:end]), fds...)
		from = end
	}
}

func TestAStreamCutAnywhereKeepsFramesAndDescriptorsTogether(t *testing.T) {
	checkDescriptors(t)
	s := mixed(t)
	for cut := range len(s.bytes) + 1 {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			a, b := openPair(t)
			var in Inbox
			defer in.Close()
			s.send(t, a, 0, cut)
			got, err := takeAll(t, &in, b)
			if err != nil {
				t.Fatal(err)
			}
			s.send(t, a, cut, len(s.bytes))
			more, err := takeAll(t, &in, b)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, more...); !slices.Equal(got, s.want) {
				t.Errorf("got %v, want %v", got, s.want)
			}
			if err := in.Settled(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAStreamThatComesByteByByteKeepsFramesAndDescriptorsTogether(t *testing.T) {
	a, b := socketPair(t)
	s := mixed(t)
	var in Inbox
	defer in.Close()
	var got []arrival
	for i := range s.bytes {
		s.send(t, a, i, i+1)
		more, err := takeAll(t, &in, b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
	}
	if !slices.Equal(got, s.want) {
		t.Errorf("got %v, want %v", got, s.want)
	}
}

func TestWhatInboxRefuses(t *testing.T) {
	plain := Frame{Type: TypePut, Conn: 1}
	with := Frame{Type: TypeAdopt, Flags: FlagFD, Conn: 2}
	for _, test := range []struct {
		name string
		send func(t *testing.T, sock int, fds []int)
		want Code
	}{
		{"two descriptors in one message", func(t *testing.T, sock int, fds []int) {
			t.Helper()
			send(t, sock, string(with.Append(nil)), fds[0], fds[1])
		}, CodeStrayDescriptor},
		{"253 descriptors in one message", func(t *testing.T, sock int, fds []int) {
			t.Helper()
			send(t, sock, string(with.Append(nil)), slices.Repeat(fds[:1], maxRights)...)
		}, CodeStrayDescriptor},
		{"a descriptor with a plain frame", func(t *testing.T, sock int, fds []int) {
			t.Helper()
			send(t, sock, string(plain.Append(nil)), fds[0])
		}, CodeStrayDescriptor},
		{"no descriptor where one is due", func(t *testing.T, sock int, _ []int) {
			t.Helper()
			send(t, sock, string(with.Append(nil)))
		}, CodeNoDescriptor},
		{"a huge length", func(t *testing.T, sock int, fds []int) {
			t.Helper()
			b := with.Append(nil)
			b[2], b[3] = 0xff, 0xff
			send(t, sock, string(b), fds[0])
		}, CodeTooLong},
		{"a type that may not be ignored", func(t *testing.T, sock int, fds []int) {
			t.Helper()
			b := plain.Append(nil)
			b[0] = 0x80
			send(t, sock, string(b), fds[0])
		}, CodeBadFrame},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := socketPair(t)
			var in Inbox
			defer in.Close()
			test.send(t, a, descriptors(t, 2))
			_, err := takeAll(t, &in, b)
			if err == nil {
				err = in.Settled()
			}
			wantFault(t, err, test.want)
		})
	}
}

func TestADescriptorMayArriveBeforeTheRestOfItsFrame(t *testing.T) {
	a, b := socketPair(t)
	fd := descriptors(t, 1)[0]
	f := Frame{Type: TypeAdopt, Flags: FlagFD, Conn: 7}
	raw := string(f.Append(nil))
	var in Inbox
	defer in.Close()
	send(t, a, raw[:1], fd)
	if got, err := takeAll(t, &in, b); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	if err := in.Settled(); err != nil {
		t.Errorf("a frame has begun, its descriptor is no stray: %v", err)
	}
	send(t, a, raw[1:])
	if got, err := takeAll(t, &in, b); err != nil || !slices.Equal(got, []arrival{{7, inode(t, fd)}}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestHangUpAtEveryByte(t *testing.T) {
	checkDescriptors(t)
	s := mixed(t)
	for cut := range len(s.bytes) + 1 {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			a, b := openPair(t)
			var in Inbox
			defer in.Close()
			s.send(t, a, 0, cut)
			if err := unix.Shutdown(a, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			got, err := takeAll(t, &in, b)
			wantEOF(t, err)
			if !slices.Equal(got, s.want[:len(got)]) {
				t.Errorf("got %v, want a beginning of %v", got, s.want)
			}
			taken := 0
			for i := range got {
				taken += s.frameLen(i)
			}
			if in.Pending(); taken+len(in.Pending()) != cut {
				t.Errorf("%d bytes in frames and %d pending of %d", taken, len(in.Pending()), cut)
			}
		})
	}
}

func (s *script) frameLen(i int) int {
	rest := s.bytes
	for {
		var f Frame
		n, _ := Decode(rest, &f)
		if i == 0 {
			return n
		}
		rest, i = rest[n:], i-1
	}
}

func TestCloseClosesWhatNobodyClaimed(t *testing.T) {
	a, b := socketPair(t)
	w := newWard(t)
	f := Frame{Type: TypeAdopt, Flags: FlagFD}
	send(t, a, string(f.Append(nil)), w.fd)
	w.drop()
	var in Inbox
	if err := in.Recv(b); err != nil {
		t.Fatal(err)
	}
	if w.gone() {
		t.Error("gone before Close")
	}
	in.Close()
	if !w.gone() {
		t.Error("still open after Close")
	}
	in.Close() // a second time closes nothing
}

func TestAFrameWhoseDescriptorIsLostComesWithoutIt(t *testing.T) {
	if !inChild(t, childFullTable) {
		return
	}
	a, b := socketPair(t)
	fd := descriptors(t, 1)[0]
	lost, kept := Frame{Type: TypeLease, Flags: FlagFD, Conn: 1}, Frame{Type: TypeLease, Flags: FlagFD, Conn: 2}
	var in Inbox
	defer in.Close()
	send(t, a, string(lost.Append(nil)), fd)
	full := fillDescriptorTable(t)
	err := in.Recv(b)
	closeAll(full)
	if err != nil {
		t.Fatal(err)
	}
	var f Frame
	if got, ok, err := in.Next(&f); !errors.Is(err, ErrDescriptorLost) || !ok || got != -1 || f.Conn != 1 {
		t.Errorf("%d, %v, %v, %+v", got, ok, err, f)
	}
	send(t, a, string(kept.Append(nil)), fd)
	if got, err := takeAll(t, &in, b); err != nil || !slices.Equal(got, []arrival{{2, inode(t, fd)}}) {
		t.Errorf("the next frame: %v, %v", got, err)
	}
}

// A frame whose descriptor was lost with its first byte ends in a read that brings the next frame's descriptor: that one is not its.
func TestALostDescriptorIsNotReplacedByTheNext(t *testing.T) {
	if !inChild(t, childFullTable) {
		return
	}
	a, b := socketPair(t)
	fd := descriptors(t, 1)[0]
	lost, kept := Frame{Type: TypeLease, Flags: FlagFD, Conn: 1}, Frame{Type: TypeLease, Flags: FlagFD, Conn: 2}
	raw := string(lost.Append(nil))
	var in Inbox
	defer in.Close()
	send(t, a, raw[:1], fd)
	full := fillDescriptorTable(t)
	err := in.Recv(b)
	closeAll(full)
	if err != nil {
		t.Fatal(err)
	}
	send(t, a, raw[1:])
	send(t, a, string(kept.Append(nil)), fd)
	if err := in.Recv(b); err != nil {
		t.Fatal(err)
	}
	var f Frame
	if got, ok, err := in.Next(&f); !errors.Is(err, ErrDescriptorLost) || !ok || got != -1 || f.Conn != 1 {
		t.Errorf("first: %d, %v, %v, %+v", got, ok, err, f)
		closeAll([]int{got})
	}
	if got, err := takeFrames(t, &in); err != nil || !slices.Equal(got, []arrival{{2, inode(t, fd)}}) {
		t.Errorf("second: %v, %v", got, err)
	}
}

func TestReceivingPlainFramesAllocatesNothing(t *testing.T) {
	a, b := socketPair(t)
	put := Frame{Type: TypePut, Seq: 1, Conn: 2, A: 3}
	var out Outbox
	var in Inbox
	defer in.Close()
	if n := testing.AllocsPerRun(200, func() {
		for range 10 {
			out.Add(&put)
		}
		if err := out.Flush(a); err != nil {
			t.Fatal(err)
		}
		if err := in.Recv(b); err != nil {
			t.Fatal(err)
		}
		var f Frame
		for range 10 {
			if _, ok, err := in.Next(&f); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations per run", n)
	}
}

// FuzzInbox sends arbitrary bytes, cut at arbitrary places, with none to three descriptors at arbitrary messages. plan says where: for each
// message a byte, its lower six bits the length, the upper two how many descriptors.
func FuzzInbox(f *testing.F) {
	plain, with := Frame{Type: TypePut, Conn: 1}, Frame{Type: TypeLease, Flags: FlagFD, Conn: 2, Payload: []byte("abc")}
	f.Add(with.Append(plain.Append(nil)), []byte{32, 64 | 35})
	f.Add(with.Append(with.Append(nil)), []byte{64 | 1, 34, 64 | 10, 25})
	f.Add(plain.Append(plain.Append(nil)), []byte{64 | 32, 128 | 32})
	for _, v := range load[vector](f, "frames.json") {
		f.Add(unhex(f, v.Hex), []byte{64 | 20, 63, 63})
	}
	f.Fuzz(func(t *testing.T, stream, plan []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		w := newWard(t)
		var in Inbox
		open := map[int]bool{}
		defer func() {
			in.Close()
			for fd := range open {
				closeFD(fd)
			}
			closeAll(pair[:])
			if w.drop(); !w.gone() {
				t.Error("a descriptor has leaked")
			}
		}()
		for _, step := range plan {
			n := min(int(step&63)+1, len(stream))
			if n == 0 {
				return
			}
			send(t, pair[0], string(stream[:n]), slices.Repeat([]int{w.fd}, int(step>>6))...)
			stream = stream[n:]
			if err := in.Recv(pair[1]); err != nil || !claimAll(t, &in, open) {
				return
			}
		}
	})
}

// claimAll takes what frames there are and notes their descriptors, none of which may be open already. It reports whether the stream may go on.
func claimAll(t *testing.T, in *Inbox, open map[int]bool) bool {
	t.Helper()
	for {
		var f Frame
		fd, ok, err := in.Next(&f)
		if fd >= 0 {
			if open[fd] || !ok || err != nil || f.Flags&FlagFD == 0 {
				t.Fatalf("descriptor %d of %v: given already %v, ok %v, %v", fd, f.Type, open[fd], ok, err)
			}
			open[fd] = true
		}
		if err != nil && !errors.Is(err, ErrDescriptorLost) {
			return false
		}
		if !ok {
			return true
		}
	}
}

// A peer that goes with something unread has still said what it said.
func TestLastWordsOfAPeerThatDidNotListen(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(pair[0])
	send(t, pair[0], "nobody reads this")
	f := Frame{Type: TypeRefuse, Conn: 3}
	send(t, pair[1], string(f.Append(nil)))
	closeFD(pair[1])
	var in Inbox
	got, err := takeAll(t, &in, pair[0])
	wantEOF(t, err)
	if !slices.Equal(got, []arrival{{conn: 3}}) {
		t.Errorf("got %v, want the last frame", got)
	}
}
