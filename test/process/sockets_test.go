package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/test/processes"
)

// serveAgain starts a sidecar where another one has been.
func serveAgain(t testing.TB, s *processes.Sidecar) *processes.Sidecar {
	t.Helper()
	return processes.ServeWith(t, s.Dir, exec.Command(processes.Binary(t)), "--listen", "tcp://127.0.0.1:0")
}

func TestASocketInUse(t *testing.T) {
	first := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	aHost(t, first, "one")
	first.Hosts(1)
	second := processes.Launch(t, first.Dir, exec.Command(processes.Binary(t)), "--listen", "tcp://127.0.0.1:0")
	if code := second.Exit(); code != 1 {
		t.Errorf("the second ended with %d, want 1", code)
	}
	for _, hint := range []string{first.Handoff(), "in use", "ss -xlp", "choose another path"} {
		if !strings.Contains(second.Log.String(), hint) {
			t.Errorf("%q is missing in what it said:\n%s", hint, second.Log)
		}
	}
	third := processes.Launch(t, t.TempDir(), exec.Command(processes.Binary(t)), "--listen", "tcp://"+first.Web[0])
	if code := third.Exit(); code != 1 {
		t.Errorf("the third ended with %d, want 1", code)
	}
	for _, hint := range []string{first.Web[0], "in use", "ss -ltnp", "choose another port"} {
		if !strings.Contains(third.Log.String(), hint) {
			t.Errorf("%q is missing in what it said:\n%s", hint, third.Log)
		}
	}
	if err := mustDial(t, first.Web[0]).ask("undisturbed", 10, 0); err != nil {
		t.Error(err)
	}
}

func TestAFileInTheWayIsNotRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "handoff.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := processes.Launch(t, dir, exec.Command(processes.Binary(t)))
	if code := s.Exit(); code != 1 || !strings.Contains(s.Log.String(), "not a socket") {
		t.Errorf("it ended with %d:\n%s", code, s.Log)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

// Another user may be able to connect, if the socket's mode says so, and is still refused before a byte is read from it.
func TestAHostOfAnotherUser(t *testing.T) {
	needRoot(t)
	for allowed, want := range map[string]string{"": "REFUSE NOT_ALLOWED", "65534": "WELCOME"} {
		t.Run("allowed="+allowed, func(t *testing.T) {
			dir := public(t)
			flags := []string{"--handoff-mode", "0666"}
			if allowed != "" {
				flags = append(flags, "--handoff-allow-uid", allowed)
			}
			s := processes.ServeWith(t, dir, exec.Command(processes.Binary(t)), append(flags, "--listen", "tcp://127.0.0.1:0")...)
			aHost(t, s, "one")
			s.Hosts(1)
			stranger := exec.Command(readable(t, dir))
			stranger.Dir = dir
			stranger.Env = append(os.Environ(), role+"=stranger", "ANTEROOM_HANDOFF="+s.Handoff())
			stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			processes.Start(t, "the stranger", stranger).Wants(want)
			refused := 0
			if allowed == "" {
				refused = 1
			}
			processes.Eventually(t, "the refusals are in the log", func() bool { return s.Log.Lines("[WARN]", "a host was refused", "uid=65534") == refused })
			if counts := s.Counts(); counts.Totals.HostsRefused != uint64(refused) {
				t.Errorf("counts %+v", counts)
			}
			if err := mustDial(t, s.Web[0]).ask("undisturbed", 10, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// needRoot: some things only root can show.
func needRoot(t testing.TB) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("starting a process as another user needs root")
	}
}

// public is a directory that every user can enter.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "anteroom-process-") //nolint:usetesting // what t.TempDir gives is in a directory closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// readable copies this test binary to where every user can run it.
func readable(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	path := filepath.Join(dir, "stranger")
	copied, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(copied, self); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(copied.Chmod(0o755), copied.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// beStranger says HELLO and tells what came of it.
func beStranger() error {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: os.Getenv("ANTEROOM_HANDOFF")}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	hello := handoff.Hello{Name: "stranger", Pool: "strangers", Capacity: 1}
	f := hello.Frame()
	var out handoff.Outbox
	out.Add(&f)
	if err := out.Flush(sock); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if f, err = first(sock); err != nil {
		return err
	}
	if f.Type == handoff.TypeRefuse {
		fmt.Println(f.Type, handoff.FaultOf(&f).Code)
		return nil
	}
	fmt.Println(f.Type)
	return nil
}

// first waits for a frame.
func first(sock int) (f handoff.Frame, err error) {
	var in handoff.Inbox
	for deadline := time.Now().Add(processes.Patience); time.Now().Before(deadline); {
		if _, ok, err := in.Next(&f); ok || err != nil {
			return f, err
		}
		if err := in.Recv(sock); err != nil && !errors.Is(err, handoff.ErrAgain) {
			return f, err
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(sock), Events: unix.POLLIN}}, 100)
	}
	return f, errors.New("no frame came")
}
