package sidecar

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-io/anteroom/listener"
)

// Who is let in gets to the sockets with nothing else configured, also into a folder that an earlier
// sidecar has made for its user alone. A folder with anything else in it stays as it is.
func TestTheFolderFollowsFromWhoIsLetIn(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds func(t *testing.T, dir string)
		want  fs.FileMode
	}{
		{"empty", func(*testing.T, string) {}, 0o711},
		{"a socket", func(t *testing.T, dir string) {
			l, err := listener.Open(parsed(t, "unix://"+dir+"/old.sock"), listener.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, 0o711},
		{"a file", func(t *testing.T, dir string) {
			if err := os.WriteFile(dir+"/key.pem", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0o700},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			if err := makeDirectory(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.holds(t, dir)
			if err := makeDirectory(dir, 0o711); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != c.want {
				t.Errorf("%v, %v; want mode %v", info.Mode(), err, c.want)
			}
		})
	}
}

// What keeps those who are let in from the socket is a warning, and names them.
func TestWarningsOfWhoCannotGetThere(t *testing.T) {
	open, closed := t.TempDir(), t.TempDir()
	for dir, mode := range map[string]fs.FileMode{open: 0o755, filepath.Dir(open): 0o755, closed: 0o700} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	const other = 54321
	for _, c := range []struct {
		name  string
		dir   string
		mode  fs.FileMode
		allow Peers
		want  []string
	}{
		{"nobody is let in", closed, 0o600, Peers{}, nil},
		{"no mode given", open, 0, Peers{UIDs: []uint32{other}, GIDs: []uint32{other}}, nil},
		{"our own user", closed, 0o600, Peers{UIDs: []uint32{uint32(os.Geteuid())}}, nil},
		{"our group may write", open, 0o660, Peers{GIDs: []uint32{uint32(os.Getegid())}}, nil},
		{"mode", open, 0o660, Peers{UIDs: []uint32{other}}, []string{"handoff-mode: user 54321 may not write"}},
		{"folder", closed, 0, Peers{UIDs: []uint32{other}}, []string{"user 54321 may not pass through the folder " + closed + " of mode 0700"}},
		{"both, for a group", closed, 0o660, Peers{GIDs: []uint32{other}}, []string{"group 54321 may not write", "group 54321 may not pass"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Config{Handoff: parsed(t, "unix://"+c.dir+"/sub/h.sock"), HandoffMode: c.mode, HandoffAllow: c.allow, ControlOff: true}
			got := config.Warnings()
			if len(got) != len(c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}
