package keeper

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstInherited is the number after standard input, output and error.
const firstInherited = 3

// Inherited lists the descriptors that this process was started with, beyond the standard ones, and makes them close-on-exec. What the process has
// opened itself is close-on-exec already: that is how they are told apart. Call it early, once.
func Inherited() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("which descriptors are open: %w", err)
	}
	var inherited []int
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < firstInherited {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // err: the one that the folder was read with
		}
		unix.CloseOnExec(fd)
		inherited = append(inherited, fd)
	}
	return inherited, nil
}
