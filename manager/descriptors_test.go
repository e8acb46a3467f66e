package manager

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

func TestDivide(t *testing.T) {
	for _, want := range []Descriptors{{920, 936, 984, 1024}, {1<<20 - 104, 1<<20 - 88, 1<<20 - 40, 1 << 20}, {64, 80, 96, 128}, {32, 40, 48, 64}} {
		if got := divide(want.Limit); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// The kernel gives out the lowest free number, which is what the division rests on.
func TestTheLowestFreeDescriptorIsGivenOut(t *testing.T) {
	first, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := unix.Dup(first)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(second)
	closeFD(first)
	again, err := unix.FcntlInt(uintptr(second), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	closeFD(again)
	if again > first {
		t.Errorf("descriptor %d was free, %d was given out", first, again)
	}
}

// share has the loop take so many descriptors for all that clients and hosts may use.
func (r *rig) share(n int) {
	r.t.Helper()
	if err := r.tell(func() error {
		r.descriptors.Shared = n
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// What a host brings is refused when only the reserve is left, and closed: the rig counts
// descriptors at the end.
func TestTheReserveIsNotForWhatHostsBring(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	near, _ := aPair(t, unix.SOCK_STREAM)
	shared := r.descriptors.Shared
	r.share(0)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 1}, near)
	denied, _ := h.want(handoff.TypeDenied)
	if denied.Seq != 1 || handoff.Code(denied.A) != handoff.CodeOutOfDescriptors {
		t.Errorf("denied: %+v %q", denied, denied.Payload)
	}
	r.share(shared)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 2}, near)
	h.want(handoff.TypeAdopted)
}

// Clients and hosts wait in the backlog while only the reserve is left, and come in when something is closed.
func TestTheReserveIsNotForClientsAndHosts(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	shared := r.descriptors.Shared
	r.share(1)
	c := r.dial()
	c.send("x")
	r.eventually("accepting pauses", func(c Counts) bool { return c.Totals.AcceptPauses == 1 })
	r.wantLog(1, "accepting pauses", "less a reserve")
	r.share(shared)
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "x", "y")
	c.want("y")
}

func TestMoreConnectionsThanDescriptors(t *testing.T) {
	d := divide(1024)
	if err := d.Check(Limits{Connections: d.Shared}); err != nil {
		t.Error(err)
	}
	if _, ok := errors.AsType[*LimitsError](d.Check(Limits{Connections: d.Shared + 1})); !ok {
		t.Error("one too many is no mistake")
	}
	r := newRig(t, Config{})
	if _, err := r.SetLimits(t.Context(), Limits{Connections: r.descriptors.Shared + 1}); err == nil {
		t.Error("an operator may set one too many")
	}
}
