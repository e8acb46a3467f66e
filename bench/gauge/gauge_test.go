package gauge

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCPUGrowsByWhatThisProcessWorks(t *testing.T) {
	before := cpuOf(t, os.Getpid())
	for begin := time.Now(); cpuOf(t, os.Getpid())-before < 20*time.Millisecond; {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("10 s of work, and the clock has not grown by 20 ms")
		}
	}
}

func TestCPUOfASleepingChildStaysSmall(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	if used := cpuOf(t, child.Process.Pid); used > 5*time.Second {
		t.Errorf("a sleeping child has used %v", used)
	}
	tree, err := Tree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if tree[0] != os.Getpid() || !slices.Contains(tree, child.Process.Pid) {
		t.Errorf("Tree = %v, want this process %d first and its child %d in it", tree, os.Getpid(), child.Process.Pid)
	}
}

func TestCPUOfNoProcess(t *testing.T) {
	if _, err := CPU([]int{1<<22 + 1}); err == nil {
		t.Error("a pid above the largest there can be has a clock")
	}
}

func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	used, err := CPU([]int{pid})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

var kept []byte // so that the compiler does not drop it

func TestMemoryGrowsByPagesThatAreWritten(t *testing.T) {
	before := memoryOf(t)
	kept = make([]byte, 64<<20)
	for i := 0; i < len(kept); i += 4096 {
		kept[i] = 1
	}
	after := memoryOf(t)
	for what, grown := range map[string]int64{"PSS": after.PSS - before.PSS, "Data": after.Data - before.Data} {
		if grown < 60<<20 {
			t.Errorf("64 MiB written: %s grew by %d", what, grown)
		}
	}
	if after.RSS < after.PSS || after.PSS < after.Data {
		t.Errorf("RSS %d, PSS %d, data %d: each is part of the one before", after.RSS, after.PSS, after.Data)
	}
	kept = nil
}

func TestPagesOfAFileAreNoData(t *testing.T) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const size = 2 << 20 // of the test's own program, which is larger
	before := memoryOf(t)
	pages, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	after := memoryOf(t)
	if err := unix.Munmap(pages); err != nil {
		t.Error(err)
	}
	if read, data := after.RSS-before.RSS, after.Data-before.Data; read < size || data > size/2 {
		t.Errorf("2 MiB of a file were read: RSS grew by %d, data by %d", read, data)
	}
}

func memoryOf(t *testing.T) Memory {
	t.Helper()
	m, err := MemoryOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTCPPages(t *testing.T) {
	const sockstat = "sockets: used 47\nTCP: inuse 1 orphan 0 tw 19 alloc 18 mem 516\nUDP: inuse 0 mem 0\n"
	if n, err := tcpPages(sockstat); n != 516 || err != nil {
		t.Errorf("tcpPages = %d, %v, want 516", n, err)
	}
	if _, err := tcpPages("UDP: inuse 0 mem 0\n"); err == nil {
		t.Error("no error without a TCP line")
	}
	if k, err := KernelMemory(); err != nil || k.Slab == 0 {
		t.Errorf("KernelMemory = %+v, %v", k, err)
	}
}

func TestTicksGrow(t *testing.T) {
	before, err := ReadTicks()
	if err != nil {
		t.Fatal(err)
	}
	if before.Idle < 0 || before.Stolen < 0 || before.All < before.Idle+before.Stolen {
		t.Fatalf("%+v", before)
	}
	for begin := time.Now(); ; {
		now, err := ReadTicks()
		if err != nil {
			t.Fatal(err)
		}
		if now.All > before.All {
			if s := now.Since(before); s.Idle < 0 || s.Stolen < 0 || s.Idle+s.Stolen > 100 {
				t.Errorf("%+v from %+v to %+v", s, before, now)
			}
			return
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("no processor's time has passed in 10 s")
		}
	}
}

func TestShares(t *testing.T) {
	now, before := Ticks{Idle: 150, Stolen: 30, All: 400}, Ticks{Idle: 100, Stolen: 10, All: 200}
	if s, want := now.Since(before), (Shares{Idle: 25, Stolen: 10}); s != want {
		t.Errorf("50 and 20 of 200 ticks are %+v %%, want %+v", s, want)
	}
}

func TestSpooledCountsFilesWithoutAName(t *testing.T) {
	pids := []int{os.Getpid()}
	before, err := Spooled(pids)
	if err != nil {
		t.Fatal(err)
	}
	memfd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	inMemory := os.NewFile(uintptr(memfd), "memfd")
	defer func() { _ = inMemory.Close() }()
	named, err := os.Create(t.TempDir() + "/named")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = named.Close() }()
	for _, f := range []*os.File{inMemory, named} {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := Spooled(pids); err != nil || after-before != 1<<20 {
		t.Errorf("grew by %d (%v), want 1 MiB", after-before, err)
	}
}

func TestMappingsOfOneNameAreAddedUp(t *testing.T) {
	sizes := map[string]int64{}
	addMappings(sizes, `00400000-0080a000 r-xp 00000000 fe:00 1234 /bin/worker
Rss:                 900 kB
Pss:                 500 kB
Pss_Dirty:             0 kB
0080a000-00900000 rw-p 0040a000 fe:00 1234 /bin/worker
Pss:                  20 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Pss:                2048 kB
VmFlags: rd wr mr
7ff000-7ff100 r--p 00000000 00:00 0 [vvar]
Pss:                   0 kB
`)
	want := map[string]int64{"worker": 520, "anonymous": 2048}
	if !maps.Equal(sizes, want) {
		t.Errorf("%v, want %v", sizes, want)
	}
	if table, err := Mappings([]int{os.Getpid()}); err != nil || !strings.Contains(table, " kB  anonymous") {
		t.Errorf("our own:\n%s\n(%v)", table, err)
	}
}
