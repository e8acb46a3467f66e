// Package gauge reads from the kernel what processes have used, and what machine this is.
package gauge

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the processor time that the processes have used so far, in user and kernel mode together, all threads included. It is read
// from each process's own clock (clock_getcpuclockid(3)), which is exact to the nanosecond where /proc/PID/stat counts hundredths of a second.
func CPU(pids []int) (time.Duration, error) {
	var total time.Duration
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(processClock(pid), &t); err != nil {
			return 0, fmt.Errorf("the clock of process %d: %w", pid, err)
		}
		total += time.Duration(t.Nano())
	}
	return total, nil
}

// processClock is Linux's encoding of a process's clock: the complement of the pid above three bits, which say "process" and CPUCLOCK_SCHED.
func processClock(pid int) int32 { return ^int32(pid)<<3 | 2 }

// Tree returns a process and all that descend from it.
func Tree(root int) ([]int, error) {
	parents, err := parents()
	if err != nil {
		return nil, err
	}
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		for pid, parent := range parents {
			if parent == tree[i] {
				tree = append(tree, pid)
			}
		}
	}
	return tree, nil
}

// parents maps each process to its parent.
func parents() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		parent, err := parentOf(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		parents[pid] = parent
	}
	return parents, nil
}

// parentOf reads the fourth field of /proc/PID/stat (proc(5)). The second, the name, is in parentheses and may hold anything.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: no parent in it", pid)
	}
	return strconv.Atoi(fields[1])
}

// Ticks is the whole machine's processor time, in the kernel's ticks, since it started.
type Ticks struct{ Idle, Stolen, All int64 }

// ReadTicks reads the first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal. What follows counts guests again.
func ReadTicks() (t Ticks, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return t, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
		t.All += n
		switch i {
		case 3, 4:
			t.Idle += n
		case 7:
			t.Stolen = n
		}
	}
	return t, nil
}

// Shares says, in percent of all processors, what nobody used, and what a virtual machine did not get because its host gave it to others.
type Shares struct{ Idle, Stolen float64 }

// Since returns the shares since an earlier reading.
func (t Ticks) Since(before Ticks) Shares {
	all := float64(max(t.All-before.All, 1))
	return Shares{Idle: 100 * float64(t.Idle-before.Idle) / all, Stolen: 100 * float64(t.Stolen-before.Stolen) / all}
}
