package conformance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// family lists the process and all its descendants.
func family(root int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if pid, parent, ok := parentOf(path); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	list := []int{root}
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
	}
	return list
}

// parentOf reads /proc/PID/stat: the pid, the name in brackets, the state, the parent (proc(5)).
func parentOf(path string) (pid, parent int, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0, 0, false
	}
	pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	parent, err2 := strconv.Atoi(fields[1])
	return pid, parent, err1 == nil && err2 == nil
}

// descriptor is one of a process.
type descriptor struct {
	pid, fd int
	to      string // what it is: socket:[inode], a path …
}

// descriptors lists those of a process and all its descendants.
func descriptors(root int) (list []descriptor) {
	for _, pid := range family(root) {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		for _, e := range entries {
			to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
			fd, _ := strconv.Atoi(e.Name())
			if err == nil {
				list = append(list, descriptor{pid, fd, to})
			}
		}
	}
	return list
}

// closesOnExec reads the flags in /proc/PID/fdinfo/FD, which include O_CLOEXEC.
func (d descriptor) closesOnExec() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", d.pid, d.fd))
	if err != nil {
		return true // gone meanwhile
	}
	_, rest, _ := strings.Cut(string(text), "flags:")
	value, _, _ := strings.Cut(rest, "\n")
	flags, _ := strconv.ParseInt(strings.TrimSpace(value), 8, 64)
	return flags&0o2000000 != 0
}
