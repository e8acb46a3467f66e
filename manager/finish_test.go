package manager

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// memfd holds the rest of a response.
func memfd(t testing.TB, content []byte) int {
	t.Helper()
	fd, err := unix.MemfdCreate("rest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(fd) })
	if n, err := unix.Write(fd, content); n != len(content) || err != nil {
		t.Fatal(n, err)
	}
	return fd
}

func finishFrame(lease handoff.Frame, offset, length int) handoff.Frame {
	return handoff.Frame{Type: handoff.TypeFinish, Conn: lease.Conn, Seq: lease.Seq, A: uint64(offset), B: uint64(length)}
}

func TestTheRestOfAResponseIsSentWhileTheHostGoesOn(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	rest := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB: more than the socket takes
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "head ")
	closeFD(fd)
	h.sendFD(finishFrame(lease, 7, len(rest)-7), memfd(t, rest))
	r.eventually("it is finishing, and the host is free", func(c Counts) bool {
		return c.States.Finishing == 1 && c.Hosts[0].Leased == 0 && c.Totals.Finished == 1
	})

	other := r.dial()
	other.send("y")
	second, fd := h.want(handoff.TypeLease)
	h.serve(fd, "y", "z")
	closeFD(fd)
	h.send(put(second))
	other.want("z")

	c.want("head ")
	got := make([]byte, len(rest)-7)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, rest[7:]) {
		t.Fatalf("the rest did not arrive as it was: %v", err)
	}
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 2 && c.States.Finishing == 0 })
	c.send("next")
	_, fd = h.want(handoff.TypeLease)
	closeFD(fd)
}

// A finished response is one request, and the connection is kept for as long as its host says.
func TestFinishCountsOnceAndKeepsItsTimeout(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "head ")
	closeFD(fd)
	f := finishFrame(lease, 0, 4)
	f.Payload = []byte(`{"keep_alive_timeout_ms":50}`)
	h.sendFD(f, memfd(t, []byte("rest")))
	c.want("head rest")
	c.wantEnd()
	r.eventually("it has expired", func(c Counts) bool { return c.Totals.ClosedFor(ReasonExpired) == 1 && c.Totals.Requests == 1 })
}

func TestAPipeIsFinishedAndClosed(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	if _, err := in.WriteString("from a pipe, and more"); err != nil {
		t.Fatal(err)
	}
	f := finishFrame(lease, 0, len("from a pipe"))
	f.Flags = handoff.FlagClose
	h.sendFD(f, int(out.Fd()))
	c.want("from a pipe")
	c.wantEnd()
}

func TestAClientThatTakesNothingIsCutOff(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{SendTimeout: 50 * time.Millisecond}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	h.sendFD(finishFrame(lease, 0, 16<<20), memfd(t, make([]byte, 16<<20)))
	r.eventually("it is cut off", func(c Counts) bool { return c.Totals.ClosedFor(ReasonSlowReader) == 1 })
}

// TestAHalfClosedClientIsFinishedWithoutSpinning: the end of its sending is a level that epoll would report for ever.
func TestAHalfClosedClientIsFinishedWithoutSpinning(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "")
	closeFD(fd)
	_ = c.CloseWrite()
	h.sendFD(finishFrame(lease, 0, 16<<20), memfd(t, make([]byte, 16<<20)))
	r.eventually("it is finishing", func(c Counts) bool { return c.States.Finishing == 1 })
	before := r.turns()
	time.Sleep(50 * time.Millisecond)
	if n := r.turns() - before; n > 20 {
		t.Errorf("the loop turned %d times while nothing happened", n)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := io.Copy(io.Discard, c); n != 16<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestFinishRefusals(t *testing.T) {
	short, socket := func(t *testing.T) int { return memfd(t, []byte("short")) }, func(t *testing.T) int {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeFD(pair[0]); closeFD(pair[1]) })
		return pair[0]
	}
	for _, c := range []struct {
		name     string
		features []string
		file     func(*testing.T) int
		length   int
		code     handoff.Code
	}{
		{"not agreed", nil, short, 5, handoff.CodeNotAgreed},
		{"a socket", []string{"finish"}, socket, 5, handoff.CodeBadDescriptor},
		{"more than there is", []string{"finish"}, short, 6, handoff.CodeBadDescriptor},
		{"nothing", []string{"finish"}, short, 0, handoff.CodeBadFrame},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{Features: c.features})
			client := r.dial()
			client.send("x")
			lease, fd := h.want(handoff.TypeLease)
			closeFD(fd)
			h.sendFD(finishFrame(lease, 0, c.length), c.file(t))
			h.wantFault(c.code)
		})
	}
}

// finishing has a response of 16 MiB of the file sent to a client that does not read.
func finishing(t *testing.T, r *rig, file int) (*client, handoff.Frame) {
	t.Helper()
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "")
	closeFD(fd)
	f := finishFrame(lease, 0, 16<<20)
	f.Flags = handoff.FlagClose
	h.sendFD(f, file)
	r.eventually("it is finishing", func(c Counts) bool { return c.States.Finishing == 1 })
	return c, lease
}

// TestAResponseThatIsCutShortEndsInAReset: whatever cuts it short. The client has no length to compare with.
func TestAResponseThatIsCutShortEndsInAReset(t *testing.T) {
	for name, cut := range map[string]func(*testing.T, *rig, int, handoff.Frame){
		"its file becomes shorter": func(t *testing.T, _ *rig, file int, _ handoff.Frame) {
			if err := unix.Ftruncate(file, 0); err != nil {
				t.Fatal(err)
			}
		},
		"its client pauses for too long": func(_ *testing.T, r *rig, _ int, _ handoff.Frame) {
			for r.counts().Totals.Closed[ReasonSlowReader] == 0 {
				r.leap(2 * time.Minute) // until the socket is full, each piece that is sent begins the time again
			}
		},
		"an operator closes it": func(t *testing.T, r *rig, _ int, lease handoff.Frame) {
			if n, err := r.Close(context.Background(), Selection{IDs: []ConnID{ConnID(lease.Conn)}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		},
		"the sidecar ends": func(t *testing.T, r *rig, _ int, _ handoff.Frame) {
			ctx, cancel := context.WithTimeout(context.Background(), 0)
			defer cancel()
			_, _ = r.Shutdown(ctx, 0)
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			r := newRig(t, Config{})
			file := memfd(t, make([]byte, 16<<20))
			c, lease := finishing(t, r, file)
			cut(t, r, file, lease)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if n, err := io.Copy(io.Discard, c); n >= 16<<20 || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client got %d bytes, then %v; want a reset", n, err)
			}
		})
	}
}

// finishing leaves a response of 8 MiB to the sidecar, of which the client has read nothing yet.
func (r *rig) finishing() (c *client, rest []byte) {
	r.t.Helper()
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
	c, rest = r.dial(), bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "head ")
	closeFD(fd)
	file, err := unix.MemfdCreate("rest", unix.MFD_CLOEXEC)
	if err != nil {
		r.t.Fatal(err)
	}
	defer closeFD(file)
	if _, err := unix.Write(file, rest); err != nil {
		r.t.Fatal(err)
	}
	h.sendFD(finishFrame(lease, 0, len(rest)), file)
	r.eventually("it is finishing", func(c Counts) bool { return c.States.Finishing == 1 })
	return c, rest
}

// A Shutdown waits for responses that hosts have left to the sidecar, as for leases.
func TestShutdownWaitsForTheRestOfAResponse(t *testing.T) {
	r := newRig(t, Config{})
	c, rest := r.finishing()
	reports := r.shutdown(context.Background(), time.Hour)
	r.eventually("it stops", func(Counts) bool { return r.waitingStops() == 1 })
	c.want("head ")
	got := make([]byte, len(rest))
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, rest) {
		t.Fatalf("the rest did not arrive: %v", err)
	}
	c.wantEnd()
	if report := <-reports; report.Cut != 0 {
		t.Errorf("%+v", report)
	}
}

// When the grace is over the client learns by a reset that the rest is missing.
func TestShutdownCutsTheRestOfAResponse(t *testing.T) {
	r := newRig(t, Config{})
	c, _ := r.finishing()
	if report := <-r.shutdown(context.Background(), 50*time.Millisecond); report.Cut != 1 {
		t.Errorf("%+v, want one cut", report)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the response ends with %v, want a reset", err)
	}
}

// An operator's Stop does not wait for it: no host has the connection.
func TestStopDoesNotWaitForTheRestOfAResponse(t *testing.T) {
	r := newRig(t, Config{})
	r.finishing()
	if report, err := r.Stop(t.Context(), time.Hour); err != nil || report.Cut != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if n := r.counts().States.Finishing; n != 1 {
		t.Errorf("%d responses are being finished, want one", n)
	}
}
