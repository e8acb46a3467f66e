package handoff

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What Linux does with descriptors in a Unix stream socket. PROTOCOL.md, section Transport, rests on these facts; they fail when a kernel
// thinks otherwise.

const roomy = 4096

func TestAPlainReadOverADescriptorClosesIt(t *testing.T) {
	a, b := socketPair(t)
	w := newWard(t)
	send(t, a, "plain")
	send(t, a, "frame", w.fd)
	w.drop()
	buf := make([]byte, roomy)
	if n, err := unix.Read(b, buf); err != nil || string(buf[:n]) != "plainframe" {
		t.Errorf("read %q, %v: the bytes come as if nothing had been there", buf[:n], err)
	}
	if !w.gone() {
		t.Error("the descriptor is still open")
	}
}

func TestPlainBytesBeforeADescriptorMergeWithItThoseAfterNever(t *testing.T) {
	a, b := socketPair(t)
	fd := descriptors(t, 1)[0]
	send(t, a, "one ")
	send(t, a, "two ")
	send(t, a, "three", fd)
	send(t, a, " four")
	send(t, a, " five")
	first := receive(t, b, roomy, roomy, 0)
	if first.bytes != "one two three" || len(first.fds) != 1 {
		t.Errorf("first recvmsg: %q with %d descriptors", first.bytes, len(first.fds))
	}
	if second := receive(t, b, roomy, roomy, 0); second.bytes != " four five" || len(second.fds) != 0 {
		t.Errorf("second recvmsg: %q with %d descriptors", second.bytes, len(second.fds))
	}
}

func TestTwoMessagesWithDescriptorsNeverMerge(t *testing.T) {
	a, b := socketPair(t)
	fds := descriptors(t, 3)
	for i, fd := range fds {
		send(t, a, string(rune('A'+i)), fd)
	}
	for i, fd := range fds {
		got := receive(t, b, roomy, roomy, 0)
		if got.bytes != string(rune('A'+i)) || len(got.fds) != 1 || inode(t, got.fds[0]) != inode(t, fd) {
			t.Errorf("recvmsg %d: %q with %d descriptors", i, got.bytes, len(got.fds))
		}
	}
}

func TestAFrameReadInHalvesMergesWithTheNextDescriptor(t *testing.T) {
	a, b := socketPair(t)
	fds := descriptors(t, 2)
	send(t, a, "ffFF", fds[0])
	send(t, a, "gggg", fds[1])
	half := receive(t, b, 2, roomy, 0)
	if half.bytes != "ff" || len(half.fds) != 1 || inode(t, half.fds[0]) != inode(t, fds[0]) {
		t.Errorf("the descriptor comes with the first byte: %q with %d descriptors", half.bytes, len(half.fds))
	}
	rest := receive(t, b, roomy, roomy, 0)
	if rest.bytes != "FFgggg" || len(rest.fds) != 1 || inode(t, rest.fds[0]) != inode(t, fds[1]) {
		t.Errorf("the rest merges with the next: %q with %d descriptors", rest.bytes, len(rest.fds))
	}
}

func TestASmallControlBufferLosesDescriptors(t *testing.T) {
	for _, test := range []struct {
		name          string
		control       int
		sent, arrived int
	}{
		{"none at all", 0, 1, 0},
		{"a header's worth", unix.CmsgLen(0), 1, 0},
		{"one of three too small", rightsSpace, 3, 2}, // the padding behind one descriptor takes a second
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := socketPair(t)
			var wards []*ward
			var fds []int
			for range test.sent {
				w := newWard(t)
				wards, fds = append(wards, w), append(fds, w.fd)
			}
			send(t, a, "frame", fds...)
			got := receive(t, b, roomy, test.control, 0)
			if got.bytes != "frame" || len(got.fds) != test.arrived || !got.truncated {
				t.Errorf("%q with %d descriptors, truncated %v", got.bytes, len(got.fds), got.truncated)
			}
			for _, w := range wards[test.arrived:] {
				if w.drop(); !w.gone() {
					t.Error("a descriptor that did not arrive is still open")
				}
			}
		})
	}
}

// A full descriptor table takes the descriptor and leaves the bytes, like a control buffer that is too small.
func TestAFullDescriptorTableLosesDescriptors(t *testing.T) {
	if !inChild(t, childFullTable) {
		return
	}
	a, b := socketPair(t)
	w := newWard(t)
	send(t, a, "frame", w.fd)
	full := fillDescriptorTable(t)
	got := receive(t, b, roomy, roomy, 0)
	closeAll(full)
	if got.bytes != "frame" || len(got.fds) != 0 || !got.truncated {
		t.Errorf("%q with %d descriptors, truncated %v", got.bytes, len(got.fds), got.truncated)
	}
	if w.drop(); !w.gone() {
		t.Error("the descriptor that did not arrive is still open")
	}
}

// A small message is charged for its bookkeeping too, about 768 bytes: a default buffer (212,992 bytes) takes 278.
func TestASocketTakesAFewHundredUnreadMessages(t *testing.T) {
	a, b := socketPair(t)
	size, err := unix.GetsockoptInt(a, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, HeaderSize)
	sent := 0
	for {
		err := unix.Sendmsg(a, frame, nil, nil, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sent++
	}
	t.Logf("%d messages in a buffer of %d bytes", sent, size)
	if sent < size/1280 || sent > size/512 {
		t.Errorf("%d unread messages in a buffer of %d bytes: the cost of a message is no longer about 768 bytes", sent, size)
	}
	if got := receive(t, b, sent*HeaderSize, 0, 0); len(got.bytes) != sent*HeaderSize {
		t.Errorf("one recvmsg took %d of %d bytes", len(got.bytes), sent*HeaderSize)
	}
}

func TestPeekingDuplicatesTheDescriptor(t *testing.T) {
	a, b := socketPair(t)
	w := newWard(t)
	send(t, a, "frame", w.fd)
	var all []int
	for _, flags := range []int{unix.MSG_PEEK, unix.MSG_PEEK, 0} {
		got := receive(t, b, roomy, roomy, flags)
		if got.bytes != "frame" || len(got.fds) != 1 || inode(t, got.fds[0]) != inode(t, w.fd) {
			t.Errorf("%q with %d descriptors", got.bytes, len(got.fds))
		}
		all = append(all, got.fds...)
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != 3 {
		t.Errorf("descriptors %v: each look makes one", all)
	}
}

func TestReceivedDescriptorsAreCloseOnExecOnlyIfAskedFor(t *testing.T) {
	a, b := socketPair(t)
	fds := descriptors(t, 1)
	send(t, a, strings.Repeat("x", 5), fds[0])
	got := receive(t, b, roomy, roomy, 0)
	flags, err := unix.FcntlInt(uintptr(got.fds[0]), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %x, %v: MSG_CMSG_CLOEXEC must set close-on-exec", flags, err)
	}
}
