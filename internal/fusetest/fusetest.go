// Package fusetest is a file system for tests that stops answering.
//
// Its server is a process of its own, a second run of the test's binary: so a test that fails leaves no
// process behind that sleeps for ever.
//
// A test that starts processes must not hold a descriptor of a file whose close hangs (Flush): the child of
// fork(2) closes it in execve(2), and hangs. Such a test has another process open FS.File.
package fusetest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Size is how many bytes the file has.
const Size = 1 << 20

// A Hang is a request that the server does not answer before Release.
type Hang string

// What may hang.
const (
	Read  Hang = "read"
	Flush Hang = "flush" // sent by close(2)
	Stat  Hang = "stat"
)

// FS is a mounted file system with one file.
type FS struct {
	File string
	in   io.Writer // the server's standard input
}

const roleVariable = "ANTEROOM_TEST_FUSE"

func init() {
	if role := os.Getenv(roleVariable); role != "" {
		hang, dir, _ := strings.Cut(role, ":")
		serve(Hang(hang), dir)
		os.Exit(0)
	}
}

// Mount mounts it until the end of the test. The test is skipped where that cannot be done.
func Mount(t testing.TB, hang Hang) *FS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no /dev/fuse")
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+string(hang)+":"+dir)
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
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Skipf("the file system cannot be mounted: %q, %v", line, err)
	}
	return &FS{File: filepath.Join(dir, "f"), in: in}
}

// Release answers what hangs, and lets nothing hang any more.
func (f *FS) Release() { _, _ = io.WriteString(f.in, "release\n") }

// Open opens the file.
func (f *FS) Open(t testing.TB) int {
	t.Helper()
	fd, err := unix.Open(f.File, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// lifetime bounds a server's life.
const lifetime = time.Minute

// The requests (fuse(4); include/uapi/linux/fuse.h).
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opInterrupt   = 36
	opBatchForget = 42
)

// server answers the kernel.
type server struct {
	device int
	hang   Hang

	mu       sync.Mutex
	released bool     // mu
	hanging  []func() // mu
}

func serve(hang Hang, dir string) {
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Mount("anteroom", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	s := &server{device: device, hang: hang}
	go s.run()
	time.AfterFunc(lifetime, func() { // a process that waits here cannot end, and so cannot close our standard input
		abort(dir)
		os.Exit(1)
	})
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		s.release()
	}
	abort(dir)
}

// abort fails every request that hangs, and all later ones (umount2(2): MNT_FORCE), so that whoever
// waits for one goes on.
func abort(dir string) { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) }

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
	for _, answer := range s.hanging {
		answer()
	}
	s.hanging = nil
}

func (s *server) run() {
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(s.device, b)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		s.handle(binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]))
	}
}

func (s *server) handle(op uint32, unique, node uint64) {
	answer := func() { s.answer(op, unique, node) }
	hangs := map[Hang]uint32{Read: opRead, Flush: opFlush, Stat: opGetattr}[s.hang] == op && node != 1
	s.mu.Lock()
	defer s.mu.Unlock()
	if hangs && !s.released {
		s.hanging = append(s.hanging, answer)
		return
	}
	answer()
}

func (s *server) answer(op uint32, unique, node uint64) {
	le := binary.LittleEndian
	var body []byte
	errno := unix.Errno(0)
	switch op {
	case opForget, opBatchForget, opInterrupt:
		return
	case opInit:
		body = make([]byte, 64)
		le.PutUint32(body, 7)
		le.PutUint32(body[4:], 31)
		le.PutUint32(body[8:], 1<<16)
		le.PutUint16(body[16:], 16)
		le.PutUint16(body[18:], 12)
		le.PutUint32(body[20:], 1<<16)
		le.PutUint32(body[24:], 1)
	case opLookup:
		entry := make([]byte, 40)
		le.PutUint64(entry, 2)
		le.PutUint64(entry[16:], 60)
		body = slices.Concat(entry, attributes(2))
	case opGetattr:
		body = slices.Concat(make([]byte, 16), attributes(node))
	case opOpen, opOpendir:
		body = make([]byte, 16)
		le.PutUint64(body, 1)
	case opRead:
		errno = unix.EIO
	}
	head := make([]byte, 16)
	le.PutUint32(head, uint32(16+len(body)))
	le.PutUint32(head[4:], uint32(-int32(errno)))
	le.PutUint64(head[8:], unique)
	_, _ = unix.Write(s.device, slices.Concat(head, body))
}

// attributes is struct fuse_attr.
func attributes(node uint64) []byte {
	b := make([]byte, 88)
	le := binary.LittleEndian
	le.PutUint64(b, node)
	mode := uint32(unix.S_IFDIR | 0o755)
	if node != 1 {
		mode = unix.S_IFREG | 0o644
		le.PutUint64(b[8:], Size)
	}
	le.PutUint64(b[16:], 8)
	le.PutUint32(b[60:], mode)
	le.PutUint32(b[64:], 1)
	le.PutUint32(b[80:], 4096)
	return b
}
