package host_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-io/anteroom/host"
)

func TestXSendfile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	root := t.TempDir()
	write := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(outside, []byte("secret"))
	write(filepath.Join(root, "page.html"), []byte("<p>hello"))
	write(filepath.Join(root, "large"), large)
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Sendfile", strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Content-Length", "7")
		if status := r.Header.Get("Status"); status != "" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = w.Write([]byte("nothing"))
	}, host.Options{SendfileRoot: root, Spill: -1})
	c := dialSlow(t, s.addr)
	for path, want := range map[string]answer{
		"/page.html":                    {status: 200, body: "<p>hello"},
		"/" + root + "/page.html":       {status: 200, body: "<p>hello"},
		"/missing":                      {status: 404, body: "Not Found\n"},
		"/../secret":                    {status: 500, body: "Internal Server Error\n"},
		"/" + outside:                   {status: 500, body: "Internal Server Error\n"},
		"/link":                         {status: 500, body: "Internal Server Error\n"},
		"/page.html?other\r\nStatus: 1": {status: 418, body: "nothing"},
		"/.":                            {status: 500, body: "not a file\n"},
	} {
		path, field, _ := strings.Cut(path, "?other\r\n")
		c.send("GET " + path + " HTTP/1.1\r\nHost: test\r\n" + strings.TrimSpace(field) + strings.Repeat("\r\n", min(len(field), 1)) + "\r\n")
		if got := c.answer("GET"); got.status != want.status || got.body != want.body {
			t.Errorf("%s: %d %q, want %d %q", path, got.status, got.body, want.status, want.body)
		}
	}
	c.send(get("/large"))
	s.waitFinishing(t, 1)
	c.wantLarge()
}

func TestXSendfileNeedsItsDirectory(t *testing.T) {
	if _, err := host.SendFile(filepath.Join(t.TempDir(), "missing"), nil); err == nil {
		t.Error("a directory that is not there was taken")
	}
}
