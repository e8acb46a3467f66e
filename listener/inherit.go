package listener

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstInherited is the number at which passed descriptors start (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const firstInherited = 3

// maxInherited bounds LISTEN_FDS; no service manager passes that many sockets.
const maxInherited = 4096

// Passed is a descriptor that this process was started with.
type Passed struct {
	FD   int
	Name string // from LISTEN_FDNAMES, else "unknown"; several may have the same
}

// Inheritance is what a service manager passed to this process and nobody has taken yet. It belongs to one goroutine.
type Inheritance struct {
	left []Passed
}

// Inherited takes over what a service manager passed by LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES (sd_listen_fds(3)): nothing if LISTEN_PID is not
// this process. It unsets the variables, so that no child mistakes them for its own, and sets close-on-exec on the descriptors. Call it once,
// early. If the variables contradict each other or a descriptor is not there, it fails and takes nothing.
func Inherited() (*Inheritance, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if in, err := fromSupervisor(); in != nil || err != nil {
		return in, err
	}
	if pid == "" || count == "" {
		return &Inheritance{}, nil
	}
	passed, err := readPassed(pid, count, names)
	if err != nil {
		return nil, err
	}
	if err := claim(passed); err != nil {
		return nil, err
	}
	return &Inheritance{left: passed}, nil
}

// supervisedVariable is how a supervisor passes on what it was passed (Inheritance.Variable):
// LISTEN_PID would have to name a process that is not there yet. It is the supervisor's process id,
// then NUMBER=NAME of each descriptor, with colons between.
const supervisedVariable = "ANTEROOM_LISTEN_FDS"

// Variable tells a child that gets these descriptors under their own numbers what they are:
// NAME=VALUE for its environment.
func (in *Inheritance) Variable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s=%d", supervisedVariable, os.Getpid())
	for _, p := range in.Left() {
		fmt.Fprintf(&b, ":%d=%s", p.FD, p.Name)
	}
	return b.String()
}

// fromSupervisor takes over what this process's parent has passed on; nil if it has not.
func fromSupervisor() (*Inheritance, error) {
	parent, list, _ := strings.Cut(os.Getenv(supervisedVariable), ":")
	if err := os.Unsetenv(supervisedVariable); err != nil {
		return nil, err
	}
	if parent != strconv.Itoa(os.Getppid()) {
		return nil, nil
	}
	var passed []Passed
	for entry := range strings.SplitSeq(list, ":") {
		number, name, _ := strings.Cut(entry, "=")
		if fd, err := strconv.Atoi(number); err == nil {
			passed = append(passed, Passed{FD: fd, Name: name})
		}
	}
	if err := claim(passed); err != nil {
		return nil, err
	}
	return &Inheritance{left: passed}, nil
}

// Drop closes what is not named, by a number or a name, and returns it.
func (in *Inheritance) Drop(names []string) (dropped []Passed, err error) {
	var left []Passed
	for _, p := range in.Left() {
		if slices.Contains(names, p.Name) || slices.Contains(names, strconv.Itoa(p.FD)) {
			left = append(left, p)
			continue
		}
		dropped = append(dropped, p)
		err = errors.Join(err, unix.Close(p.FD))
	}
	in.left = left
	return dropped, err
}

func readPassed(pid, count, names string) ([]Passed, error) {
	ours, err := strconv.Atoi(pid)
	if err != nil || ours <= 0 {
		return nil, fmt.Errorf("LISTEN_PID is %q: it has to be a process id, as sd_listen_fds(3) says", pid)
	}
	if ours != os.Getpid() {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxInherited {
		return nil, fmt.Errorf("LISTEN_FDS is %q: it has to be a number from 0 to %d", count, maxInherited)
	}
	return named(n, names)
}

func named(n int, names string) ([]Passed, error) {
	list := slices.Repeat([]string{"unknown"}, n)
	if names != "" {
		list = strings.Split(names, ":")
	}
	if len(list) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names, LISTEN_FDS says %d descriptors", len(list), n)
	}
	passed := make([]Passed, n)
	for i, name := range list {
		passed[i] = Passed{FD: firstInherited + i, Name: name}
	}
	return passed, nil
}

// claim checks that all are there before it changes one.
func claim(passed []Passed) error {
	for _, p := range passed {
		if _, err := unix.FcntlInt(uintptr(p.FD), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("LISTEN_FDS promises descriptor %d (%s), which is not open: let the service manager start this process, or unset LISTEN_PID: fcntl(F_GETFD): %w",
				p.FD, p.Name, err)
		}
	}
	for _, p := range passed {
		unix.CloseOnExec(p.FD)
	}
	return nil
}

// Left returns what nobody has taken yet.
func (in *Inheritance) Left() []Passed {
	if in == nil {
		return nil
	}
	return slices.Clone(in.left)
}

// Close closes what nobody has taken.
func (in *Inheritance) Close() error {
	var err error
	for _, p := range in.Left() {
		err = errors.Join(err, unix.Close(p.FD))
	}
	if in != nil {
		in.left = nil
	}
	return err
}

// find looks name up, which is a descriptor's name or its number. A name that several have is not one of them.
func (in *Inheritance) find(name string) (Passed, error) {
	var found []Passed
	for _, p := range in.Left() {
		if p.Name == name || strconv.Itoa(p.FD) == name {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Passed{}, fmt.Errorf("no descriptor of that name was passed to this process, or it is taken: there is %s", in.describe())
	}
	return Passed{}, fmt.Errorf("%d descriptors have that name: take them by number; there is %s", len(found), in.describe())
}

func (in *Inheritance) describe() string {
	var texts []string
	for _, p := range in.Left() {
		texts = append(texts, fmt.Sprintf("fd://%d (%s)", p.FD, p.Name))
	}
	if texts == nil {
		return "none (LISTEN_FDS and LISTEN_FDNAMES, set by a service manager, say which, where LISTEN_PID is this process's id)"
	}
	return strings.Join(texts, ", ")
}

func (in *Inheritance) forget(fd int) {
	in.left = slices.DeleteFunc(in.left, func(p Passed) bool { return p.FD == fd })
}

// openInherited takes over the descriptor called name. If it fails, the descriptor is left as it was.
func openInherited(name string, o Options) (*Listener, error) {
	p, err := o.Inherited.find(name)
	if number, nerr := strconv.Atoi(name); err != nil && nerr == nil {
		return openNumber(number, o)
	}
	if err != nil {
		return nil, err
	}
	l, err := openPassed(p.FD, o)
	if err == nil {
		o.Inherited.forget(p.FD)
	}
	return l, err
}

// openNumber takes over a descriptor that came without LISTEN_FDS. All that this process has made itself, or has taken before, is close-on-exec,
// and what is close-on-exec was not inherited.
func openNumber(fd int, o Options) (*Listener, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil {
		return nil, fmt.Errorf("this process was not started with a descriptor %d: fcntl(F_GETFD): %w", fd, err)
	}
	if flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("descriptor %d was not passed to this process, or is taken already; there is %s", fd, o.Inherited.describe())
	}
	return openPassed(fd, o)
}

func openPassed(fd int, o Options) (*Listener, error) {
	l, err := Adopt(fd)
	if err != nil || o.Backlog == 0 {
		return l, err
	}
	return l, l.Relisten(o.Backlog)
}
