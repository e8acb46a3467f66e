package keeper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// SupervisorVariable tells a supervised process, and its successors, the number of a pipe on which to announce itself (Announce).
const SupervisorVariable = "ANTEROOM_SUPERVISOR"

// Starting anew begins after firstPause; the pause doubles with each process that ends soon, up to lastPause.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
	soon       = 10 * time.Second
)

// supervisor keeps one program running. It stands for it towards whoever started it: its process id stays, whatever happens to the program's.
type supervisor struct {
	program Program
	log     hclog.Logger
	pipe    *os.File // the programs' end

	mu      sync.Mutex
	current int         // process id of the one that serves, 0: none; mu
	ending  []os.Signal // what a successor is to be told about the end: the signal that asked for it, and HurrySignal; mu
}

// HurrySignal asks a supervised process to end without waiting any longer. SIGTERM and SIGINT,
// however often they come, only ask it to drain: it gets them from its supervisor and, at the same
// time, from whoever signals the whole process group or service.
const HurrySignal = unix.SIGUSR1

// Supervise runs a program until it ends of itself, passes signals on to it, and returns its exit status. If it dies its keeper becomes its successor; only if
// that dies too is the program started anew. Every descendant that loses its parent becomes a child of this process (PR_SET_CHILD_SUBREAPER, prctl(2)).
func Supervise(program Program, log hclog.Logger) (status int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", err)
	}
	announcements, pipe, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	s := &supervisor{program: program, log: log, pipe: pipe}
	go s.listen(announcements)
	stop := s.passSignals()
	defer stop()
	return s.run()
}

// run starts the program until it ends of itself.
func (s *supervisor) run() (status int, err error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := time.Now()
		if err := s.start(); err != nil {
			return 0, err
		}
		end := s.reap()
		if own, done := s.done(end); done {
			return own, nil
		}
		if time.Since(began) > soon {
			pause = firstPause
		}
		s.log.Error("the sidecar and its keeper have died, connections are lost; starting anew", "status", describe(end), "in", pause)
		time.Sleep(pause)
	}
}

func (s *supervisor) start() error {
	files := s.files()
	env := append(slices.Clone(s.program.Env), SupervisorVariable+"="+strconv.Itoa(len(files)-1))
	pid, err := syscall.ForkExec(s.program.Path, s.program.Args, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		return fmt.Errorf("starting the sidecar: %w", err)
	}
	s.mu.Lock()
	s.current = pid
	s.mu.Unlock()
	return nil // reap waits for every child alike
}

// files are the program's descriptors by number: the standard ones, those to be passed, and the
// pipe, which is the last.
func (s *supervisor) files() []uintptr {
	files := []uintptr{0, 1, 2}
	for _, fd := range s.program.Pass {
		for len(files) <= fd {
			files = append(files, ^uintptr(0)) // closed there
		}
		files[fd] = uintptr(fd)
	}
	return append(files, s.pipe.Fd())
}

// reap waits until no child is left but such as nothing waits for, and returns how the last one
// that served has ended.
func (s *supervisor) reap() (last unix.WaitStatus) {
	for ended := false; !ended || !alone(); {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			return last
		case pid == s.serving():
			last, ended = status, true
			s.tellEnd(pid, status)
		}
	}
	return last
}

// tellEnd says how the process that served has ended, as a warning if a signal has killed it.
func (s *supervisor) tellEnd(pid int, status unix.WaitStatus) {
	level := hclog.Debug
	if status.Signaled() {
		level = hclog.Warn
	}
	s.log.Log(level, "the sidecar's process has ended", "pid", pid, "status", describe(status))
}

func (s *supervisor) serving() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// done reports whether the program has ended because it wanted to, and its exit status. A program that cannot start says so by its status, and would again.
func (s *supervisor) done(end unix.WaitStatus) (status int, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end.Signaled() {
		return 128 + int(end.Signal()), len(s.ending) > 0
	}
	return end.ExitStatus(), true
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return "exit status " + strconv.Itoa(status.ExitStatus())
}

// listen learns which process serves.
func (s *supervisor) listen(announcements io.Reader) {
	for lines := bufio.NewScanner(announcements); lines.Scan(); {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			continue
		}
		s.mu.Lock()
		s.current = pid
		ending := s.ending
		s.mu.Unlock()
		for _, sig := range ending {
			s.pass(sig) // its predecessor died over it
		}
	}
}

// passSignals passes on what concerns the program.
func (s *supervisor) passSignals() (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR2)
	go func() {
		var ending Ending
		for received := range signals {
			switch {
			case received != unix.SIGTERM && received != unix.SIGINT:
				s.pass(received)
			default:
				s.end(received, ending.Judge(time.Now()))
			}
		}
	}()
	return func() { signal.Stop(signals) }
}

// end passes on a signal that asks for the end, and remembers it for a successor.
func (s *supervisor) end(received os.Signal, asked Request) {
	switch asked {
	case Echo:
		return
	case AtOnce:
		received = HurrySignal
	}
	s.mu.Lock()
	if !slices.Contains(s.ending, received) {
		s.ending = append(s.ending, received)
	}
	s.mu.Unlock()
	s.pass(received)
}

func (s *supervisor) pass(sig os.Signal) {
	number, _ := sig.(unix.Signal) // on Unix they all are
	if pid := s.serving(); pid > 0 {
		_ = unix.Kill(pid, number) // ESRCH: its successor announces itself soon
	}
}

// supervisorPipe is where a supervised process announces itself.
func supervisorPipe() (fd int, supervised bool) {
	fd, err := strconv.Atoi(os.Getenv(SupervisorVariable))
	return fd, err == nil
}

// Announce tells the supervisor of this process, if it has one, that it serves from now on. A
// supervisor that has been killed (EPIPE) is no error.
func Announce() error {
	fd, supervised := supervisorPipe()
	if !supervised {
		return nil
	}
	if _, err := unix.Write(fd, []byte(strconv.Itoa(unix.Getpid())+"\n")); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("announcing this process to its supervisor: %w", err)
	}
	return nil
}
