package gauge

import (
	"strings"
	"testing"
)

const counts = `20;;syscalls:sys_enter_read;1000;100.00;;
0;;syscalls:sys_enter_futex;1000;100.00;;
<not counted>;;syscalls:sys_enter_write;0;100.00;;
400;;syscalls:sys_enter_recvfrom;1000;100.00;;
`

func TestCallTable(t *testing.T) {
	if got, want := callTable(counts, 200), "    2.0000  recvfrom\n    0.1000  read"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := callTable("event syntax error\n", 1); !strings.Contains(got, "event syntax error") {
		t.Errorf("what perf said is lost: %s", got)
	}
}

func TestHeadOfAProfile(t *testing.T) {
	text := "\n  9 %  a  [k] __x64_sys_read\n  8 %  a  [k] tcp_poll\n" + strings.Repeat("  1 %  a  [k] __arm64_sys_write\n", Lines)
	got := strings.Split(head(text, sysCall.MatchString), "\n")
	if len(got) != Lines || !strings.HasSuffix(got[0], "sys_read") || !strings.HasSuffix(got[1], "sys_write") {
		t.Errorf("%q", got)
	}
}
