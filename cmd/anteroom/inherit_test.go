package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInheritedSockets plays a service manager: it binds the sockets, passes them on by LISTEN_FDS and is told when the sidecar is ready.
func TestInheritedSockets(t *testing.T) {
	folder := t.TempDir()
	web, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	control := listenUnix(t, folder, "control.sock")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "notify.sock"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()

	// LISTEN_PID must be the sidecar's own, which the shell has until it becomes it.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`,
		"anteroom", "serve", "--listen=fd://http?pool=web&name=passed", "--control=fd://control", "--handoff", filepath.Join(folder, "handoff.sock"))
	cmd.ExtraFiles = []*os.File{duplicate(t, web), duplicate(t, control), duplicate(t, listenUnix(t, folder, "spare.sock"))}
	cmd.Env = append(os.Environ(), "LISTEN_FDS=3", "LISTEN_FDNAMES=http:control:spare", "NOTIFY_SOCKET="+told.LocalAddr().String())
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, told, "READY=1")

	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"status", "--json", "--control", filepath.Join(folder, "control.sock")}, &out, &errOut); code != exitOK {
		t.Errorf("status: exit code %d: %s", code, &errOut)
	}
	if want := `"address": "tcp://` + web.Addr().String() + `"`; !bytes.Contains(out.Bytes(), []byte(want)) {
		t.Errorf("%s is not in %s", want, &out)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, told, "STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("serve: %v\n%s", err, &log)
	}
	if !bytes.Contains(log.Bytes(), []byte("fd://5 (spare)")) {
		t.Errorf("the log does not speak of the socket that nobody uses:\n%s", &log)
	}
	if _, err := os.Stat(control.Addr().String()); err != nil {
		t.Errorf("the socket that was passed lost its file: %v", err)
	}
}

func listenUnix(t *testing.T, folder, name string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func duplicate(t *testing.T, l interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// waitFor reads what the service manager is told until it is this.
func waitFor(t *testing.T, told *net.UnixConn, want string) {
	t.Helper()
	if err := told.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 4096); ; {
		n, err := told.Read(buffer)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if bytes.Contains(buffer[:n], []byte(want)) {
			return
		}
	}
}
