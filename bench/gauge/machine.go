package gauge

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what a reader must know of where figures come from.
type Machine struct {
	CPU       string            `json:"cpu"`
	Cores     int               `json:"cores"`
	MemoryGiB int64             `json:"memory_gib"`
	Kernel    string            `json:"kernel"`
	System    string            `json:"system"`
	Go        string            `json:"go"`
	Commit    string            `json:"commit"` // of the working tree; with "-dirty" if it has changes
	Versions  map[string]string `json:"versions"`
}

// ReadMachine gathers the facts. What cannot be found out is left empty: a report is worth having without.
func ReadMachine(ctx context.Context) Machine {
	info, _ := readTable("/proc/meminfo")
	return Machine{
		CPU:       valueIn("/proc/cpuinfo", "model name", ":"),
		Cores:     runtime.NumCPU(),
		MemoryGiB: (info["MemTotal"] + 1<<19) >> 20,
		Kernel:    kernel(),
		System:    strings.Trim(valueIn("/etc/os-release", "PRETTY_NAME", "="), `"`),
		Go:        runtime.Version(),
		Commit:    firstLine(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12"),
		Versions: map[string]string{
			"nginx":   firstLine(ctx, "nginx", "-v"),
			"haproxy": firstLine(ctx, "haproxy", "-v"),
			"apache":  firstLine(ctx, "apache2", "-v"),
			"cheroot": firstLine(ctx, "/usr/bin/python3", "-c", "import cheroot, sys; print(cheroot.__version__, 'on Python', sys.version.split()[0])"),
			"wrk":     firstLine(ctx, "wrk", "-v"),
		},
	}
}

func kernel() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
}

func valueIn(path, name, separator string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, separator); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// firstLine takes what a command prints first, on either stream: versions come on both, and with any exit status.
func firstLine(ctx context.Context, command string, args ...string) string {
	out, _ := exec.CommandContext(ctx, command, args...).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
