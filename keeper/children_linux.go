package keeper

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// spared are the names of processes that nothing waits for: they may sleep in the kernel for ever,
// where no signal ends them.
var spared = []string{closerName, "anteroom-helper"}

// alone reports whether this process has no child that may still do something, other than those
// that are spared. If /proc does not tell it is not.
func alone() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isOurs(pid) {
			return false
		}
	}
	return true
}

// isOurs reads /proc/pid/stat (proc(5)): "pid (name) state parent …".
func isOurs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if err != nil || begin < 0 || end < begin {
		return false // it has gone
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 2 || string(fields[1]) != strconv.Itoa(os.Getpid()) {
		return false
	}
	return !slices.Contains(spared, string(stat[begin+1:end]))
}
