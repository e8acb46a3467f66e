package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOpenUnix(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	l := opened(t, "unix://"+path, Options{})
	wantOurs(t, l.FD())
	if want := unixAddress(path); l.Addr() != want || l.String() != "unix://"+path {
		t.Errorf("Addr is %+v", l.Addr())
	}
	connect(t, l)
	fd := accepted(t, l)
	wantOurs(t, fd)
	ok(t, CheckConnection(fd))

	ok(t, l.Close())
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the file is still there: %v", err)
	}
}

func TestAbstractName(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "unix://@"+t.Name(), Options{})
	if l.String() != "unix://@"+t.Name() {
		t.Errorf("Addr is %s", l)
	}
	connect(t, l)
	accepted(t, l)
	_, err := Open(l.Addr(), Options{})
	wantError(t, err, ErrInUse)
	ok(t, l.Close())
	opened(t, "unix://@"+t.Name(), Options{})
}

func TestPathOfALiveProcessIsInUse(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	l := opened(t, "unix://"+path, Options{Backlog: 1})
	for range 3 { // the third finds the queue full, which is life too
		_, err := Open(unixAddress(path), Options{})
		wantError(t, err, ErrInUse)
		if !strings.Contains(err.Error(), "ss -xlp src "+path) {
			t.Errorf("%q does not say how to find the other", err)
		}
	}
	if now := must(identify(path))(t); now != l.file {
		t.Error("the file of a live process was replaced")
	}
}

func TestStalePathIsReplaced(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	leaveStale(t, path)
	l := opened(t, "unix://"+path, Options{})
	connect(t, l)
	accepted(t, l)
}

// leaveStale leaves at path what a process leaves that dies.
func leaveStale(t testing.TB, path string) {
	t.Helper()
	fd := must(streamSocket(unix.AF_UNIX))(t)
	ok(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	ok(t, unix.Listen(fd, 1))
	ok(t, unix.Close(fd))
}

func TestOnlySocketsAreReplaced(t *testing.T) {
	makers := map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
	}
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			path := socketPath(t)
			ok(t, create(path))
			before := must(identify(path))(t)
			_, err := Open(unixAddress(path), Options{})
			if err == nil || !strings.Contains(err.Error(), "is not a socket") {
				t.Errorf("the error is %v", err)
			}
			if must(identify(path))(t) != before {
				t.Error("it was replaced")
			}
		})
	}
}

// All who race for a stale path see it stale at first; exactly one may get it, and must keep it.
func TestRaceForAStalePath(t *testing.T) {
	const racers = 8
	for range 30 {
		t.Run("", func(t *testing.T) {
			leavesNothing(t)
			path := socketPath(t)
			leaveStale(t, path)
			var racing sync.WaitGroup
			listeners, failures := make(chan *Listener, racers), make(chan error, racers)
			for range racers {
				racing.Go(func() {
					if l, err := Open(unixAddress(path), Options{}); err == nil {
						listeners <- l
					} else {
						failures <- err
					}
				})
			}
			racing.Wait()
			if len(listeners) != 1 {
				t.Fatalf("%d of %d opened the same path", len(listeners), racers)
			}
			for range racers - 1 {
				wantError(t, <-failures, ErrInUse)
			}
			l := <-listeners
			connect(t, l)
			accepted(t, l)
			ok(t, l.Close())
		})
	}
}

func init() {
	roles["race"] = func() error {
		l, err := Open(unixAddress(os.Getenv("LISTENER_TEST_PATH")), Options{})
		switch {
		case errors.Is(err, ErrInUse):
			fmt.Println("in use")
			return nil
		case err != nil:
			return err
		}
		fmt.Println("mine")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test has counted
		return l.Close()
	}
}

func TestRaceOfProcessesForAStalePath(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	leaveStale(t, path)
	const racers = 4
	words := make(chan string, racers)
	var racing sync.WaitGroup
	hold := make(chan struct{})
	for range racers {
		cmd := child(t, "race")
		cmd.Env = append(cmd.Env, "LISTENER_TEST_PATH="+path)
		in, out := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
		ok(t, cmd.Start())
		racing.Go(func() {
			var word [16]byte
			n, _ := out.Read(word[:])
			words <- strings.TrimSpace(string(word[:n]))
			<-hold
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	won := 0
	for range racers {
		if word := <-words; word == "mine" {
			won++
		} else if word != "in use" {
			t.Errorf("a process said %q", word)
		}
	}
	close(hold)
	racing.Wait()
	if won != 1 {
		t.Errorf("%d of %d processes opened the same path", won, racers)
	}
}

// Any user who may read the directory may lock it. That delays us, and no more.
func TestDirectoryThatSomebodyKeepsLocked(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	unlock := must(lockDirectory(dir, lockWait))(t)
	defer unlock()
	must(lockDirectory(dir, 10*time.Millisecond))(t)()
	opened(t, "unix://"+dir+"/s", Options{})
}

func TestDirectoryOfAnotherUser(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	me := os.Geteuid()
	ok(t, checkOwner(dir, me))
	ok(t, checkOwner("/", me+1)) // root's
	if me != 0 {
		return // only root may give a directory away
	}
	ok(t, os.Chown(dir, 12345, -1))
	ok(t, checkOwner(dir, 12345))
	_, err := Open(unixAddress(dir+"/s"), Options{})
	if want := "belongs to user 12345"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v, it should say %q", err, want)
	}
}

func TestDirectoryErrorsSayWhatToDo(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	_, err := Open(unixAddress(path+"/x.sock"), Options{})
	if want := path + " does not exist: create it first"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v, it should say %q", err, want)
	}
	ok(t, os.WriteFile(path, nil, 0o600))
	_, err = Open(unixAddress(path+"/x.sock"), Options{})
	if want := "is not a directory"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v, it should say %q", err, want)
	}
}

func TestMode(t *testing.T) {
	tests := map[fs.FileMode]fs.FileMode{0: 0o660, 0o600: 0o600, 0o666: 0o666, 0o777: 0o777, 0o770: 0o770}
	for asked, want := range tests { // whatever the umask, which is 022 for most and takes from all but the first two
		t.Run(fmt.Sprintf("%#o", asked), func(t *testing.T) {
			leavesNothing(t)
			path := socketPath(t)
			opened(t, "unix://"+path, Options{Mode: asked})
			if got := must(os.Lstat(path))(t).Mode(); got != want|fs.ModeSocket {
				t.Errorf("the mode is %v, want %v", got, want)
			}
		})
	}
}

func init() { roles["mode at birth"] = checkModeAtBirth }

func TestFileIsNeverWiderThanAsked(t *testing.T) {
	cmd := child(t, "mode at birth")
	cmd.Env = append(cmd.Env, "LISTENER_TEST_PATH="+socketPath(t))
	runChild(t, cmd)
}

// checkModeAtBirth shows what createFile relies on: bind(2) makes the file with the mode of the socket's inode, less the umask. The umask
// belongs to the whole process, hence one of its own.
func checkModeAtBirth() error {
	for umask, want := range map[int]fs.FileMode{0: 0o600, 0o077: 0o600, 0o777: 0} {
		unix.Umask(umask)
		fd, err := streamSocket(unix.AF_UNIX)
		if err != nil {
			return err
		}
		path := os.Getenv("LISTENER_TEST_PATH")
		if err := errors.Join(unix.Fchmod(fd, 0o600), unix.Bind(fd, &unix.SockaddrUnix{Name: path})); err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if got := info.Mode().Perm(); got != want {
			return fmt.Errorf("with the umask %#o the file is born as %v, want %v", umask, got, want)
		}
		if err := errors.Join(unix.Close(fd), os.Remove(path)); err != nil {
			return err
		}
	}
	return nil
}

func TestCloseLeavesASuccessorsFile(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	old := opened(t, "unix://"+path, Options{})
	ok(t, os.Remove(path)) // an administrator did this
	successor := opened(t, "unix://"+path, Options{})
	ok(t, old.Close())
	if now := must(identify(path))(t); now != successor.file {
		t.Error("the successor's file is gone")
	}
	connect(t, successor)
	accepted(t, successor)
}

func TestCloseAfterTheFileIsGone(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	l := opened(t, "unix://"+path, Options{})
	ok(t, os.Remove(path))
	ok(t, l.Close())
}

func TestPeerOfAUnixSocket(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "unix://@"+t.Name(), Options{})
	connect(t, l)
	peer := must(Peer(accepted(t, l)))(t)
	want := Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if peer.Network != Unix || peer.Credentials != want {
		t.Errorf("the peer is %+v, want %+v", peer, want)
	}
	if text := fmt.Sprintf("unix uid=%d pid=%d", want.UID, want.PID); peer.String() != text {
		t.Errorf("the peer is told as %q, want %q", peer, text)
	}
}
