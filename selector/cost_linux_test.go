package selector

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestHotPathAllocatesNothing(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read|OneShot))
	send(t, far, "x")
	events := make([]Event, 64)
	round := func() {
		n, err := s.Select(events, -1)
		if err != nil || n != 1 {
			t.Errorf("%d events, %v", n, err)
		}
		if err := s.Modify(near, 2, Read|OneShot); err != nil {
			t.Error(err)
		}
	}
	steps := map[string]func(){
		"select and modify": round,
		"wake and select": func() {
			s.Wake()
			round()
		},
		"unregister and register": func() {
			if s.Unregister(near) != nil || s.Register(near, 1, Read|OneShot) != nil {
				t.Error("refused")
			}
		},
	}
	for name, step := range steps {
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkModify(b *testing.B) {
	s := newSelector(b)
	near, _ := pair(b)
	ok(b, s.Register(near, 1, Read|OneShot))
	b.ReportAllocs()
	for b.Loop() {
		if s.Modify(near, 1, Read|OneShot) != nil {
			b.Fatal("refused")
		}
	}
}

// BenchmarkBareModify is what Modify cannot go below: the system call alone.
func BenchmarkBareModify(b *testing.B) {
	s := newSelector(b)
	near, _ := pair(b)
	ok(b, s.Register(near, 1, Read|OneShot))
	event := unix.EpollEvent{Events: epollEvents(Read | OneShot), Fd: 1}
	for b.Loop() {
		if unix.EpollCtl(s.poller.epoll, unix.EPOLL_CTL_MOD, near, &event) != nil {
			b.Fatal("refused")
		}
	}
}

// BenchmarkReadyRound is one idle connection becoming ready and being armed again.
func BenchmarkReadyRound(b *testing.B) {
	s := newSelector(b)
	near, far := pair(b)
	ok(b, s.Register(near, 1, Read|OneShot))
	send(b, far, "x")
	events := make([]Event, 64)
	b.ReportAllocs()
	for b.Loop() {
		if n, err := s.Select(events, 0); n != 1 || err != nil {
			b.Fatal(n, err)
		}
		if s.Modify(near, 1, Read|OneShot) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkWake(b *testing.B) {
	s := newSelector(b)
	events := make([]Event, 64)
	b.ReportAllocs()
	for b.Loop() {
		s.Wake()
		if _, err := s.Select(events, -1); err != nil {
			b.Fatal(err)
		}
	}
}
