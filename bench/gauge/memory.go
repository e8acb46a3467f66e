package gauge

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory is what processes hold themselves, in bytes.
type Memory struct {
	RSS  int64 // resident, pages shared between processes counted in each
	PSS  int64 // resident, each page shared by n processes counted as 1/n
	Data int64 // of PSS, what is no page of a file: anonymous and shared memory, memfds
}

// MemoryOf adds up the memory of processes, as /proc/PID/smaps_rollup states it (proc(5), Linux 5.9).
func MemoryOf(pids []int) (m Memory, err error) {
	for _, pid := range pids {
		values, err := readTable(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return m, err
		}
		m.RSS += values["Rss"] << 10
		m.PSS += values["Pss"] << 10
		files, ok := values["Pss_File"]
		if !ok {
			return m, fmt.Errorf("/proc/%d/smaps_rollup has no line Pss_File: this needs Linux 5.9", pid)
		}
		m.Data += (values["Pss"] - files) << 10
	}
	return m, nil
}

// Mappings returns a table of what processes hold (PSS) by mapping, the largest first (/proc/PID/smaps, proc(5)). Mappings of one name are
// added up; those without one are anonymous memory, a Go program's heap among them.
func Mappings(pids []int) (string, error) {
	sizes := map[string]int64{}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
		if err != nil {
			return "", err
		}
		addMappings(sizes, string(text))
	}
	names := slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b)) })
	var table strings.Builder
	for _, name := range names[:min(len(names), Lines)] {
		fmt.Fprintf(&table, "%10d kB  %s\n", sizes[name], name)
	}
	return strings.TrimRight(table.String(), "\n"), nil
}

// addMappings reads smaps: a line "START-END PERMISSIONS OFFSET DEVICE INODE NAME", then lines such as "Pss:   123 kB".
func addMappings(sizes map[string]int64, smaps string) {
	name := ""
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case !strings.HasSuffix(fields[0], ":"):
			name = "anonymous"
			if len(fields) > 5 {
				name = filepath.Base(fields[5]) // where it lies is this machine's business
			}
		case fields[0] == "Pss:":
			if kilobytes, err := strconv.ParseInt(fields[1], 10, 64); err == nil && kilobytes > 0 {
				sizes[name] += kilobytes
			}
		}
	}
}

// Spooled adds up the files that processes have open and that have no name (any more): temporary files, and memfds (memfd_create(2)). What
// they hold is in no process's resident memory.
func Spooled(pids []int) (size int64, err error) {
	seen := map[[2]uint64]bool{} // by device and inode: a file that is open twice is one
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return 0, err
		}
		for _, path := range files {
			var file unix.Stat_t
			if unix.Stat(path, &file) != nil { // closed meanwhile
				continue
			}
			key := [2]uint64{file.Dev, file.Ino}
			if file.Mode&unix.S_IFMT == unix.S_IFREG && file.Nlink == 0 && !seen[key] {
				seen[key] = true
				size += file.Blocks * 512 // the unit of stat(2)
			}
		}
	}
	return size, nil
}

// Kernel is memory the kernel holds, of the whole machine, in bytes: both ends of each loopback connection, and whatever else goes on.
type Kernel struct {
	Slab    int64 // the kernel's objects, sockets among them
	Buffers int64 // what TCP holds in send and receive buffers
}

// KernelMemory reads /proc/meminfo and /proc/net/sockstat.
func KernelMemory() (k Kernel, err error) {
	info, err := readTable("/proc/meminfo")
	if err != nil {
		return k, err
	}
	k.Slab = info["Slab"] << 10
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return k, err
	}
	k.Buffers, err = tcpPages(string(text))
	k.Buffers *= int64(os.Getpagesize())
	return k, err
}

// tcpPages finds "mem N" in the line "TCP: inuse 1 orphan 0 tw 19 alloc 18 mem 516".
func tcpPages(sockstat string) (int64, error) {
	for line := range strings.Lines(sockstat) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "TCP:" && fields[len(fields)-2] == "mem" {
			return strconv.ParseInt(fields[len(fields)-1], 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/net/sockstat has no line for TCP's memory")
}

// readTable reads lines such as "Pss:   123 kB".
func readTable(path string) (map[string]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	table := map[string]int64{}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if !found || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			table[name] = n
		}
	}
	return table, nil
}
