package keeper

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// role says, in the environment, what a process that runs this test binary is to be.
const role = "ANTEROOM_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "guarded":
		runGuarded()
	case "successor":
		runSuccessor()
	case "spawner":
		runSpawner()
	}
	os.Exit(0)
}

// runGuarded accepts connections and tells their descriptors, and dies of what its standard input says.
func runGuarded() {
	fmt.Println("pid", os.Getpid())
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	owner := (*uint32)(unsafe.Pointer(unsafe.SliceData(page)))
	guard, err := NewGuard(Program{Path: Self, Args: os.Args, Env: []string{role + "=successor"}}, owner, *owner, hclog.NewNullLogger())
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("keeper", guard.PID())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("address", l.Addr())
	conn, err := l.Accept()
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fd := -1
	raw, _ := conn.(*net.TCPConn).SyscallConn()
	_ = raw.Control(func(n uintptr) { fd = int(n) })
	fmt.Println("fd", fd)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "keeper":
			fmt.Println("keeper", guard.PID())
		case "release":
			atomic.AddUint32(owner, 1)
			os.Exit(0)
		case "panic":
			panic("as the test wishes")
		}
	}
}

// runSuccessor answers on every connected socket it finds.
func runSuccessor() {
	fmt.Println("successor", os.Getpid())
	for fd := 3; fd < 100; fd++ {
		if peer, err := unix.Getpeername(fd); err == nil {
			if _, ok := peer.(*unix.SockaddrInet4); ok {
				_, _ = unix.Write(fd, []byte("from the successor\n"))
			}
		}
	}
}

func runSpawner() {
	r, w, _ := os.Pipe()
	pid, err := Spawn(Program{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf("echo through the pipe >&%d", w.Fd())}, Env: nil})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	awaitChild(pid)
	_ = w.Close()
	line, _ := bufio.NewReader(r).ReadString('\n')
	fmt.Print(line)
}

// process is a run of this test binary in a role.
type process struct {
	*exec.Cmd
	t     *testing.T
	stdin interface{ WriteString(string) (int, error) }
	lines chan string
}

func start(t *testing.T, as string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+as)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, t: t, stdin: in.(interface{ WriteString(string) (int, error) }), lines: make(chan string, 100)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = in.Close() })
	return p
}

// next is the value of the next line, which must begin with the key.
func (p *process) next(key string) string {
	p.t.Helper()
	select {
	case line := <-p.lines:
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return value
		}
		p.t.Fatalf("the process says %q, want %q", line, key)
	case <-time.After(10 * time.Second):
		p.t.Fatalf("the process does not say %q", key)
	}
	return ""
}

func (p *process) nextInt(key string) int {
	p.t.Helper()
	n, err := strconv.Atoi(p.next(key))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *process) say(line string) {
	p.t.Helper()
	if _, err := p.stdin.WriteString(line + "\n"); err != nil {
		p.t.Fatal(err)
	}
}

// guarded starts a guarded process with a client connected to it.
func guarded(t *testing.T) (p *process, pid, keeper int, client net.Conn) {
	t.Helper()
	p = start(t, "guarded")
	pid, keeper = p.nextInt("pid"), p.nextInt("keeper")
	client, err := net.Dial("tcp", p.next("address"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	p.next("fd")
	return p, pid, keeper, client
}

func hears(t *testing.T, client net.Conn, want string) {
	t.Helper()
	got, _ := bufio.NewReader(client).ReadString('\n')
	if strings.TrimSpace(got) != want {
		t.Fatalf("the client hears %q, want %q", got, want)
	}
}

func TestSuccessorHasEveryDescriptor(t *testing.T) {
	for _, death := range []string{"kill", "panic", "segv"} {
		t.Run(death, func(t *testing.T) {
			p, pid, keeper, client := guarded(t)
			switch death {
			case "kill":
				_ = unix.Kill(pid, unix.SIGKILL)
			case "segv":
				_ = unix.Kill(pid, unix.SIGSEGV)
			case "panic":
				p.say("panic")
			}
			if got := p.nextInt("successor"); got != keeper {
				t.Errorf("the successor is process %d, want the keeper, %d", got, keeper)
			}
			hears(t, client, "from the successor")
		})
	}
}

func TestReleasedKeeperEnds(t *testing.T) {
	p, _, keeper, client := guarded(t)
	p.say("release")
	hears(t, client, "") // both holders of the table are gone, so the connection has ended
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	awaitGone(t, keeper)
}

func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if state := stateOf(pid); state == "" || state == "Z" { // its new parent may be slow to reap it
			return
		}
	}
	t.Fatalf("process %d is still there", pid)
}

func stateOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

func TestKilledKeeperIsReplaced(t *testing.T) {
	p, pid, keeper, client := guarded(t)
	_ = unix.Kill(keeper, unix.SIGKILL)
	awaitGone(t, keeper)
	next := keeper
	for end := time.Now().Add(10 * time.Second); next == keeper && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		p.say("keeper")
		next = p.nextInt("keeper")
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	if got := p.nextInt("successor"); got != next {
		t.Errorf("the successor is process %d, want the new keeper, %d", got, next)
	}
	hears(t, client, "from the successor")
}

// A service manager that ends a service signals all of its processes. The keeper leaves that to the process it guards.
func TestKeeperLeavesSignalsToItsProcess(t *testing.T) {
	p, _, keeper, client := guarded(t)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGURG} {
		_ = unix.Kill(keeper, s)
	}
	if state := stateOf(keeper); state != "S" {
		t.Errorf("the keeper is in state %q, want it asleep", state)
	}
	p.say("release")
	hears(t, client, "")
	awaitGone(t, keeper)
}

func TestSpawnPassesDescriptors(t *testing.T) {
	p := start(t, "spawner")
	if got := p.next("through"); got != "the pipe" {
		t.Errorf("the pipe brought %q", got)
	}
}
