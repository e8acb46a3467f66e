package sidecar

import (
	"strings"
	"testing"

	"github.com/anteroom-io/anteroom/listener"
)

func TestARefusalNamesTheOptionsOfItsSocket(t *testing.T) {
	allow := Peers{UIDs: []uint32{1000}}
	stranger := listener.Credentials{UID: 54321, GID: 54322}
	for _, socket := range []string{"handoff", "control"} {
		err := allow.checkFor(socket)(stranger)
		if err == nil {
			t.Fatalf("%s: a stranger is let in", socket)
		}
		for _, want := range []string{"user 54321 (group 54322) is not allowed", socket + "-allow-uid", socket + "-allow-gid"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if err := allow.checkFor(socket)(listener.Credentials{UID: 1000}); err != nil {
			t.Errorf("%s: %v", socket, err)
		}
	}
}
