package manager

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// A panic ends the process, and a successor goes on with what is there, as after SIGKILL: on the way
// out of the loop nothing may be closed, forgotten or said.
func TestAPanicOfTheLoopLeavesEverythingToASuccessor(t *testing.T) {
	before := descriptors(t)
	r := makeRig(t, Config{})
	t.Cleanup(func() {
		r.end()
		wantDescriptors(t, before)
	})
	died := make(chan any)
	go func() {
		defer func() { died <- recover() }()
		_ = r.Run()
	}()
	h := r.attach(handoff.Hello{})
	c := r.dial()
	h.exchange(c, "x", "y")
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
	r.post(func() { panic(death{}) })
	if got := <-died; got != (death{}) {
		t.Fatalf("the loop ended with %v", got)
	}
	if states, hosts := r.policy.states, len(r.policy.hosts); states[Idle] != 1 || hosts != 1 || len(r.doors) != 1 || len(r.handoffs) != 1 {
		t.Errorf("after a panic: %+v, %d hosts, %d listeners, %d handoff sockets", states.public(), hosts, len(r.doors), len(r.handoffs))
	}
	if n, _, err := unix.Recvfrom(h.sock, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("the host's link: %d bytes, %v; want it silent and open", n, err)
	}
}
