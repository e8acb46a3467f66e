package polyglot

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/internal/freeport"
	"github.com/anteroom-io/anteroom/test/processes"
)

// listensItself are the servers that bring the address they are bound to. The others serve what the
// sidecar listens on.
var listensItself = map[string]bool{"python": true, "python-gunicorn": true}

// TestReadmeLines runs what README says of each language, as it stands there and with nothing else
// set: a sidecar by README's line, behind it the smallest program that has the language's line, and
// two requests over one connection. The programs are in testdata/readme.
func TestReadmeLines(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			line := strings.Trim(s.attach, "`")
			script, err := os.ReadFile(filepath.Join("testdata", "readme", s.name+".sh"))
			if err != nil || !strings.Contains(string(script), line) || !strings.Contains(string(readme), "`"+line+"`") {
				t.Fatalf("%q is to stand in README.md and in testdata/readme/%s.sh (%v)", line, s.name, err)
			}
			s.need(t)
			s.serveHello(t, string(script))
		})
	}
}

// serveHello runs a program behind a sidecar of its own, and asks it twice.
func (s server) serveHello(t *testing.T, script string) {
	t.Helper()
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	var listen []string
	address := ""
	if listensItself[s.name] {
		address = reserve(t)
	} else {
		listen = []string{"--listen", "tcp://127.0.0.1:0"}
	}
	sidecar := processes.Serve(t, listen...)
	if address == "" {
		address = sidecar.Web[0]
	}
	_, port, _ := net.SplitHostPort(address)
	cmd := s.command("set -eu; unset ANTEROOM_POOL ANTEROOM_NAME ANTEROOM_CAPACITY\n"+script, "ANTEROOM_HANDOFF="+sidecar.Handoff(), "DIR="+t.TempDir(), "ROOT="+absolute, "PORT="+port,
		"PYTHONPATH="+filepath.Join(absolute, "sdk", "python"))
	program := lead(t, s.name, cmd)
	processes.Within(t, buildTime, s.name+" is attached", func() bool {
		program.mustRun(t)
		return len(sidecar.Counts().Hosts) > 0
	})
	s.helloTwice(t, address)
}

// helloTwice asks twice over one connection.
func (s server) helloTwice(t *testing.T, address string) {
	t.Helper()
	var c *client
	processes.Eventually(t, s.name+" listens", func() bool {
		var err error
		c, err = dial(address)
		return err == nil
	})
	defer c.Close()
	for range 2 {
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: " + address + "\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		status, body, err := c.hello()
		if err != nil || status != http.StatusOK || body != "hello\n" {
			t.Fatalf("%d, %q, %v; want 200 and hello", status, body, err)
		}
	}
}

// hello reads an answer, for which it waits no longer than the tests' patience.
func (c *client) hello() (status int, body string, err error) {
	if err := c.SetReadDeadline(time.Now().Add(processes.Patience)); err != nil {
		return 0, "", err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// reserve keeps a port for a server until the test ends.
func reserve(t *testing.T) string {
	t.Helper()
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	return port.Loopback()
}
