package handoff

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// memory is zeroed and aligned, as mmap(2) gives it.
func memory(t testing.TB, size int) []byte {
	t.Helper()
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return m
}

func inboxAt(t testing.TB, m []byte) *Inbox {
	t.Helper()
	in, err := InboxAt(m)
	if err != nil {
		t.Fatal(err)
	}
	return &in
}

// Whoever dies over a frame leaves it, with its descriptor, to the successor; what came before is taken.
func TestASuccessorGetsTheFrameThatWasBeingTaken(t *testing.T) {
	s := mixed(t)
	for dead := range s.want {
		t.Run(fmt.Sprint(dead), func(t *testing.T) {
			a, b := socketPair(t)
			s.send(t, a, 0, len(s.bytes))
			m := memory(t, InboxSize)
			first, got := inboxAt(t, m), []arrival{}
			for len(got) <= dead { // the last one counts only if somebody lives on
				more, fd, err := takeOne(first, b)
				if err != nil {
					t.Fatal(err)
				}
				if got = append(got, more); len(got) <= dead {
					closeFD(fd) // the last one stays open: the successor has it under the same number
				}
			}
			second := inboxAt(t, m)
			defer second.Close()
			rest, err := takeFrames(t, second)
			if err != nil {
				t.Fatal(err)
			}
			more, err := takeAll(t, second, b)
			got = slices.Concat(got[:dead], rest, more)
			if err != nil || !sameConns(got, s.want) {
				t.Errorf("got %v, %v, want %v", got, err, s.want)
			}
		})
	}
}

func takeOne(in *Inbox, sock int) (arrival, int, error) {
	for {
		var f Frame
		fd, ok, err := in.Next(&f)
		if err != nil || ok {
			return arrival{conn: f.Conn}, fd, err
		}
		if err := in.Recv(sock); err != nil {
			return arrival{}, -1, err
		}
	}
}

func sameConns(a, b []arrival) bool {
	return slices.EqualFunc(a, b, func(a, b arrival) bool { return a.conn == b.conn })
}

// A process that is killed in a system call dies at its end, before it can note what was done. The kernel has.
func TestASuccessorKnowsWhatTheLastCallReceived(t *testing.T) {
	s := mixed(t)
	a, b := socketPair(t)
	m := memory(t, InboxSize)
	for cut := 1; cut <= len(s.bytes); cut++ {
		clear(m)
		s.send(t, a, 0, cut)
		dead := inboxAt(t, m)
		dead.makeRoom()
		if _, _, err := dead.msg.recv(b, dead.buf[:], dead.oob[:], 0); err != nil {
			t.Fatal(err)
		}
		in := inboxAt(t, m)
		s.send(t, a, cut, len(s.bytes))
		got, err := takeFrames(t, in)
		if err != nil {
			t.Fatal(err)
		}
		more, err := takeAll(t, in, b)
		if got = append(got, more...); err != nil || !slices.Equal(got, s.want) {
			t.Fatalf("cut at %d: got %v, %v, want %v", cut, got, err, s.want)
		}
	}
}

func TestASuccessorKnowsWhatTheLastCallSent(t *testing.T) {
	a, b := socketPair(t)
	fds := descriptors(t, 2)
	m := memory(t, OutboxSize)
	dead := OutboxAt(m, nil)
	want := queue(t, &dead, 1, 10, 5, fds)
	upTo, fd := dead.chunk(0)
	p, q := dead.piece(0, upTo)
	if _, err := dead.msg.send(a, p, q, fd, 0); err != nil {
		t.Fatal(err)
	}
	out := OutboxAt(m, nil)
	if err := out.Flush(a); err != nil {
		t.Fatal(err)
	}
	var in Inbox
	defer in.Close()
	if got, err := takeAll(t, &in, b); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// Across many generations, each of which dies somewhere, a stream is neither cut nor doubled, though the ring comes round several times.
func TestAStreamOutlivesManyProcesses(t *testing.T) {
	a, b := socketPair(t)
	outMemory, inMemory := memory(t, OutboxSize), memory(t, InboxSize)
	payload := make([]byte, 5000)
	var got []arrival
	sent := 0
	for generation := range 800 {
		out, in := OutboxAt(outMemory, nil), inboxAt(t, inMemory)
		for range 1 + generation%3 {
			sent++
			out.Add(&Frame{Type: TypeLease, Conn: uint64(sent), Payload: payload})
		}
		if err := out.Flush(a); err != nil && !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		if generation%50 < 40 {
			continue // nobody reads for a while, so that the ring fills
		}
		more, err := takeAll(t, in, b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
	}
	for out, in := OutboxAt(outMemory, nil), inboxAt(t, inMemory); out.Len() > 0 || len(got) < sent; {
		if err := out.Flush(a); err != nil && !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		more, err := takeAll(t, in, b)
		if err != nil || len(more) == 0 {
			t.Fatalf("%d frames came of %d, %v", len(got), sent, err)
		}
		got = append(got, more...)
	}
	for i := range got {
		if got[i].conn != uint64(i+1) {
			t.Fatalf("frame %d has number %d", i+1, got[i].conn)
		}
	}
	if len(got) != sent {
		t.Errorf("%d frames came, %d were sent", len(got), sent)
	}
}

func TestAFixedOutboxHasAnEnd(t *testing.T) {
	a, b := socketPair(t)
	out := OutboxAt(memory(t, OutboxSize), nil)
	payload := make([]byte, MaxPayload)
	for range outboxRoom/(HeaderSize+MaxPayload) + 1 {
		out.Add(&Frame{Type: TypeLease, Payload: payload})
	}
	var in Inbox
	for {
		err := out.Flush(a)
		if errors.Is(err, ErrOutboxFull) {
			break // once all that fit is sent
		}
		if !errors.Is(err, ErrAgain) {
			t.Fatal(err)
		}
		if _, err := takeAll(t, &in, b); err != nil {
			t.Fatal(err)
		}
	}
	out.Close()
	if out.Len() != 0 {
		t.Error("Close leaves something")
	}
}

func TestLastIsTheFrameThatWasAddedLast(t *testing.T) {
	a, _ := socketPair(t)
	out := OutboxAt(memory(t, OutboxSize), nil)
	var f Frame
	if out.Last(&f) {
		t.Error("an empty outbox has a last frame")
	}
	out.Add(&Frame{Type: TypeForget, Conn: 1, Payload: []byte("x")})
	out.Add(&Frame{Type: TypeLease, Conn: 2, Seq: 9, Payload: []byte("{}")})
	if !out.Last(&f) || f.Type != TypeLease || f.Conn != 2 || f.Seq != 9 {
		t.Errorf("the last frame is %+v", f)
	}
	if err := out.Flush(a); err != nil || out.Last(&f) {
		t.Errorf("%v, and what is sent still waits", err)
	}
}
