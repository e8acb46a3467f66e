package arrange

import (
	"strings"
	"testing"
)

func TestFirstProcessor(t *testing.T) {
	for list, want := range map[string]string{"2": "2", "3,1": "3", "12-15": "12"} {
		if got, err := firstProcessor(list); got != want || err != nil {
			t.Errorf("of %q: %q (%v)", list, got, err)
		}
	}
	own, err := firstProcessor("")
	if err != nil {
		t.Fatal(err)
	}
	// A program that may run there says so itself.
	out, err := pinned(own, "sh", "-c", "grep Cpus_allowed_list /proc/self/status").Output()
	if fields := strings.Fields(string(out)); err != nil || fields[len(fields)-1] != own {
		t.Errorf("pinned to %s: %q (%v)", own, out, err)
	}
}
