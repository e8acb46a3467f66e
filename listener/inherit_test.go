package listener

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	roles["inherit"] = func() error { return asServiceManager(inheritAll) }
	roles["inherit another's"] = inheritAnothers
	roles["inherit a number"] = inheritNumber
}

// asServiceManager completes what a parent cannot know before it has a child: the child's pid.
func asServiceManager(run func() error) error {
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	return run()
}

// passing starts a child with two listening sockets, TCP and Unix, and a file.
func passing(t *testing.T, role string, variables ...string) {
	t.Helper()
	var files []*os.File
	for i, fd := range []int{foreign(t, unix.AF_INET), foreign(t, unix.AF_UNIX), socketOf(unix.AF_INET, unix.SOCK_DGRAM)(t)} {
		f := os.NewFile(uintptr(fd), strconv.Itoa(i))
		defer func() { ok(t, f.Close()) }()
		files = append(files, f)
	}
	cmd := child(t, role, files...)
	cmd.Env = append(cmd.Env, variables...)
	runChild(t, cmd)
}

func TestInherited(t *testing.T) {
	passing(t, "inherit", "LISTEN_FDS=3", "LISTEN_FDNAMES=http:local:http")
}

func inheritAll() error {
	in, err := Inherited()
	if err != nil {
		return err
	}
	if got := fmt.Sprint(in.Left()); got != "[{3 http} {4 local} {5 http}]" {
		return fmt.Errorf("inherited are %s", got)
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if v, set := os.LookupEnv(name); set {
			return fmt.Errorf("%s is still set, to %q", name, v)
		}
	}
	if err := refuses(in, map[string]string{
		"http":  "2 descriptors have that name: take them by number; there is fd://3 (http), fd://4 (local), fd://5 (http)",
		"https": "no descriptor of that name",
		"5":     ErrNotStream.Error(),
		"0":     "", "1": "", "2": "", // open, but no sockets
		"77": "not started with a descriptor 77",
	}); err != nil {
		return err
	}
	if err := opens(in, map[string]Network{"3": TCP, "local": Unix}); err != nil {
		return err
	}
	if err := refuses(in, map[string]string{"3": "taken already", "local": "or it is taken"}); err != nil {
		return err
	}
	if got := fmt.Sprint(in.Left()); got != "[{5 http}]" {
		return fmt.Errorf("left are %s", got)
	}
	return in.Close()
}

func refuses(in *Inheritance, names map[string]string) error {
	for name, want := range names {
		l, err := Open(Address{Network: FD, Name: name}, Options{Inherited: in})
		if err == nil {
			return fmt.Errorf("fd://%s opened %s", name, l)
		}
		if !strings.Contains(err.Error(), want) {
			return fmt.Errorf("fd://%s: the error should say %q: %w", name, want, err)
		}
	}
	return nil
}

func opens(in *Inheritance, names map[string]Network) error {
	for name, want := range names {
		l, err := Open(Address{Network: FD, Name: name}, Options{Inherited: in, Backlog: 5})
		if err != nil {
			return err
		}
		if l.Addr().Network != want {
			return fmt.Errorf("fd://%s opened %s", name, l)
		}
		flags, err := unix.FcntlInt(uintptr(l.FD()), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("descriptor %d is not close-on-exec: %w", l.FD(), err)
		}
	}
	return nil
}

func TestWhatAnotherProcessShouldInheritIsLeftAlone(t *testing.T) {
	passing(t, "inherit another's", "LISTEN_FDS=3", "LISTEN_PID=1")
}

func inheritAnothers() error {
	in, err := Inherited()
	if err != nil {
		return err
	}
	if len(in.Left()) != 0 || os.Getenv("LISTEN_FDS") != "" {
		return fmt.Errorf("inherited are %v, LISTEN_FDS is %q", in.Left(), os.Getenv("LISTEN_FDS"))
	}
	flags, err := unix.FcntlInt(3, unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return fmt.Errorf("descriptor 3 was touched: %w", err)
	}
	return nil
}

func TestNumberWithoutServiceManager(t *testing.T) { passing(t, "inherit a number") }

func inheritNumber() error {
	if err := refuses(nil, map[string]string{"5": ErrNotStream.Error(), "local": "set by a service manager"}); err != nil {
		return err
	}
	if err := opens(nil, map[string]Network{"3": TCP, "4": Unix}); err != nil {
		return err
	}
	return refuses(nil, map[string]string{"3": "taken already"})
}

// A number that names one of the process's own descriptors must not be taken: it was not inherited.
func TestOwnDescriptorsAreNotInherited(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	_, err := Open(Address{Network: FD, Name: strconv.Itoa(l.FD())}, Options{})
	if err == nil || !strings.Contains(err.Error(), "was not passed to this process") || !strings.Contains(err.Error(), "LISTEN_PID") {
		t.Errorf("the error is %v", err)
	}
	connect(t, l)
	accepted(t, l)
}

func TestBadListenVariables(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	tests := map[string][4]string{ // LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, what the error says
		"no number":      {pid, "two", "", "LISTEN_FDS"},
		"negative":       {pid, "-1", "", "LISTEN_FDS"},
		"huge":           {pid, "2147483647", "", "LISTEN_FDS"},
		"bad pid":        {"me", "1", "", "LISTEN_PID"},
		"too few names":  {pid, "2", "a", "LISTEN_FDNAMES has 1 names"},
		"too many names": {pid, "1", "a:b", "LISTEN_FDNAMES has 2 names"},
		"not there":      {pid, "4000", "", "which is not open"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			t.Setenv("LISTEN_PID", test[0])
			t.Setenv("LISTEN_FDS", test[1])
			t.Setenv("LISTEN_FDNAMES", test[2])
			in, err := Inherited()
			if err == nil || !strings.Contains(err.Error(), test[3]) {
				t.Errorf("inherited are %v, the error is %v, it should say %q", in.Left(), err, test[3])
			}
			if _, set := os.LookupEnv("LISTEN_FDS"); set {
				t.Error("LISTEN_FDS is still set")
			}
		})
	}
}

func TestNothingInherited(t *testing.T) {
	in := must(Inherited())(t)
	if len(in.Left()) != 0 {
		t.Errorf("inherited are %v", in.Left())
	}
	ok(t, in.Close())
	ok(t, (*Inheritance)(nil).Close())
}
