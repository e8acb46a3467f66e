package polyglot

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// server is one way to have an app of some language behind the sidecar.
type server struct {
	name     string // of the language as the app says it, and of the server, if there are several: ruby-puma
	language string
	server   string
	attach   string // how it is put behind the sidecar, in Markdown
	program  string // starts the conformance app (docs/hosts.md)
	version  string // prints the server's version; fails where it is not installed
	alone    string // serves the same app at 127.0.0.1:$PORT without the sidecar; empty where the server cannot
}

// Commands run in the repository's root by sh, with PYTHON set, and PYTHONPATH to the SDK.
var servers = []server{
	{
		name: "python", language: "Python", server: "cheroot", attach: "`anteroom.cheroot.install()`",
		program: "sdk/python/conformance",
		version: `$PYTHON -c 'import cheroot; print(cheroot.__version__)'`,
		alone:   `exec $PYTHON -m conformance_app.cheroot $PORT`,
	},
	{
		name: "python-gunicorn", language: "Python", server: "gunicorn", attach: "`gunicorn --worker-class anteroom.gunicorn.Worker`",
		program: "sdk/python/conformance-gunicorn",
		version: `$PYTHON -c 'import gunicorn; print(gunicorn.__version__)'`,
		alone: `exec $PYTHON -m gunicorn --worker-class gthread --workers 1 --threads 4 --keep-alive 75 --bind 127.0.0.1:$PORT ` +
			`--log-level warning conformance_app.plain:application`,
	},
	{
		name: "python-wsgi", language: "Python", server: "any WSGI app", attach: "`python -m anteroom module:app`",
		program: "sdk/python/conformance-wsgi",
		version: `$PYTHON -c 'import platform; print(platform.python_version())'`,
	},
	{
		name: "python-asgi", language: "Python", server: "uvicorn, any ASGI app", attach: "`python -m anteroom module:app`",
		program: "sdk/python/conformance-asgi",
		version: `$PYTHON -c 'import uvicorn; print(uvicorn.__version__)'`,
		alone:   `exec $PYTHON -m uvicorn --host 127.0.0.1 --port $PORT --http h11 --log-level warning --no-access-log conformance_app.asgi:application`,
	},
	{
		name: "ruby-puma", language: "Ruby", server: "Puma", attach: "`plugin :anteroom`",
		program: "sdk/ruby/conformance-puma",
		version: `ruby -r puma/const -e 'puts Puma::Const::VERSION'`,
		alone:   `exec puma --quiet --environment production --threads 5:5 --bind tcp://127.0.0.1:$PORT sdk/ruby/app/config.ru >&2`,
	},
	{
		name: "ruby", language: "Ruby", server: "any Rack app", attach: "`rackup --server anteroom`",
		program: "sdk/ruby/conformance",
		version: `ruby -r rack -e 'puts "#{RUBY_VERSION}, Rack #{Rack.release}"'`,
	},
	{
		name: "node", language: "Node.js", server: "node:http", attach: "`anteroom.serve(server)`",
		program: "sdk/node/conformance",
		version: `node --print process.versions.node`,
		alone:   `exec node -e 'require("node:http").createServer(require("./sdk/node/tests/app/app").app).listen(process.env.PORT, "127.0.0.1")'`,
	},
	{
		name: "node-bridge", language: "Node.js", server: "node:http, by the bridge", attach: "`anteroom.serve(server, {road: 'bridge'})`",
		program: "sdk/node/conformance-bridge",
		version: `node --print process.versions.node`,
	},
	{
		name: "php", language: "PHP", server: "any PSR-15 app", attach: "`anteroom-php app.php`",
		program: "sdk/php/conformance",
		version: `php -r 'echo PHP_VERSION;'`,
	},
	{
		name: "java", language: "Java", server: "Jetty", attach: "`server.addConnector(new AnteroomConnector(server))`",
		program: "sdk/java/conformance",
		version: `java -cp "$(sdk/java/build)" org.eclipse.jetty.server.Server --version 2>&1 | sed -n '/^[0-9]*\.[0-9]/p'`,
		alone:   `exec sdk/java/conformance $PORT`,
	},
	{
		name: "c", language: "C", server: "your own", attach: "`anteroom_next(host, &lease, -1)`",
		program: "sdk/c/conformance",
		version: `gcc -dumpfullversion`,
	},
	{
		name: "rust", language: "Rust", server: "your own", attach: "`host.next()`",
		program: "sdk/rust/conformance",
		version: `PATH=$PATH:$HOME/.cargo/bin; cd sdk/rust && rustc --version | cut -d ' ' -f 2`,
	},
	{
		name: "go", language: "Go", server: "net/http", attach: "`host.Serve(ctx, server, host.Options{})`",
		program: "host/conformance/run",
		version: `go env GOVERSION`,
		alone:   `go build -o bin/conformance-go ./host/conformance && exec bin/conformance-go -alone 127.0.0.1:$PORT`,
	},
}

// capacity is how many requests each server takes at once.
const capacity = 4

// missing is the variable that says what happens where a server's runtime is not installed: nothing is left out unless it is "skip".
const missing = "ANTEROOM_POLYGLOT_MISSING"

// word is what the app calls its language.
func (s server) word() string {
	word, _, _ := strings.Cut(s.name, "-")
	return word
}

// need asks for the server's version. Where there is none the test fails, or is left out if that is wanted.
func (s server) need(t testing.TB) (version string) {
	t.Helper()
	cmd := s.command(s.version)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	version = strings.TrimSpace(out.String())
	switch {
	case err == nil && version != "":
		return version
	case os.Getenv(missing) == "skip":
		t.Skipf("%s is left out, since it is not installed: %s: %v\n%s", s.name, s.version, err, &complaints)
	default:
		t.Fatalf("%s is not installed: %s: %v\n%sRun make deps, or leave out what is missing: %s=skip", s.name, s.version, err, &complaints, missing)
	}
	return ""
}

// command is a command line with what those of the list need.
func (s server) command(line string, environment ...string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PYTHONPATH=sdk/python", "PYTHON="+cmp.Or(os.Getenv("PYTHON"), "/usr/bin/python3"), "PYTHONDONTWRITEBYTECODE=1")
	cmd.Env = append(cmd.Env, environment...)
	return cmd
}

// A conformance app that is not in the list would never be tried.
func TestEveryServerIsInTheList(t *testing.T) {
	for _, pattern := range []string{"sdk/*/conformance*", "host/conformance/run"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			program, _ := filepath.Rel(root, path)
			listed := slices.ContainsFunc(servers, func(s server) bool { return s.program == program })
			if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !listed {
				t.Errorf("%s is not in the list of test/polyglot/servers_test.go", program)
			}
		}
	}
}
