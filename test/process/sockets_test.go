package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

// activated is a command that gets listening sockets as from a service manager (sd_listen_fds(3)):
// for clients, hosts, operators and metrics.
func activated(t *testing.T, dir string) (cmd *exec.Cmd, web, metrics string) {
	t.Helper()
	cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=5 LISTEN_FDNAMES=http:handoff:control:metrics:unused exec "$0" "$@"`, processes.Binary(t))
	listen := func(network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := l.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false)
		}
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		t.Cleanup(func() { _ = f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		return l.Addr().String()
	}
	web = listen("tcp", "127.0.0.1:0")
	listen("unix", filepath.Join(dir, "handoff.sock"))
	listen("unix", filepath.Join(dir, "control.sock"))
	metrics = listen("tcp", "127.0.0.1:0")
	listen("tcp", "127.0.0.1:0")
	return cmd, web, metrics
}

// Sockets that a service manager passes work with a supervisor, too: by name and by number, over
// kill -9 of the sidecar and of its keeper.
func TestSocketActivation(t *testing.T) {
	byName := []string{"--listen", "fd://http", "--handoff", "fd://handoff", "--control", "fd://control", "--metrics", "fd://metrics"}
	byNumber := []string{"--listen", "fd://3", "--handoff", "fd://4", "--control", "fd://5", "--metrics", "fd://6"}
	for name, flags := range map[string][]string{"by name": byName, "by number": byNumber} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, supervised bool, flag string) {
				dir := t.TempDir()
				cmd, web, metrics := activated(t, dir)
				s := processes.ServeWith(t, dir, cmd, append(flags, flag)...)
				t.Cleanup(func() { s.Terminate() })
				aHost(t, s, "one")
				works := func() {
					t.Helper()
					s.Hosts(1)
					mustDial(t, web).mustAsk(t, "hello")
					answer, err := http.Get("http://" + metrics + "/healthz")
					if err != nil {
						t.Fatal(err)
					}
					_ = answer.Body.Close()
				}
				works()
				if n := s.Log.Lines("fd://7 (unused)", "no setting names it"); n != 1 {
					t.Errorf("%d lines about the unused socket, want one\n%s", n, s.Log)
				}
				if !supervised {
					return
				}
				pid := serving(t, s, true)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				works()
				pid = serving(t, s, true)
				_, _ = syscall.Kill(keeperOf(pid), syscall.SIGKILL), syscall.Kill(pid, syscall.SIGKILL)
				works()
			})
		})
	}
}
