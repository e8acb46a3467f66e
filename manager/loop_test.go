package manager_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// packages are those whose code the loop runs.
var packages = []string{"manager", "selector", "handoff", "listener", "scan", "proxied", "internal/blocking"}

// TestTheLoopMakesNoOtherSystemCall: every function of the packages unix, syscall, os, os/exec and
// net, and time.Sleep, that the loop's code calls stands in docs/loop.md with the reason why it
// does not block, or in a function that is listed there as not the loop's. Nothing else is listed.
func TestTheLoopMakesNoOtherSystemCall(t *testing.T) {
	listed := newLists(t)
	for _, name := range packages {
		for _, c := range callsOf(t, name) {
			if !listed.others.take(name, c.from) && !listed.calls.take(name, c.called) {
				t.Errorf("%s: %s calls %s: say in docs/loop.md why it does not block, or let a helper do it", name, c.from, c.called)
			}
		}
	}
	for _, list := range []list{listed.calls, listed.others} {
		for entry, used := range list {
			if !used {
				t.Errorf("docs/loop.md lists %s, which no code has", entry)
			}
		}
	}
}

// list says of "package name" whether the code has it.
type list map[string]bool

func (l list) take(pkg, name string) bool {
	_, listed := l[pkg+" "+name]
	if listed {
		l[pkg+" "+name] = true
	}
	return listed
}

// lists are the two tables of docs/loop.md: calls, and functions that are not the loop's. A row
// names a package, names in backquotes, a reason.
type lists struct{ calls, others list }

func newLists(t *testing.T) lists {
	t.Helper()
	text, err := os.ReadFile("../docs/loop.md")
	if err != nil {
		t.Fatal(err)
	}
	l := lists{list{}, list{}}
	row, quoted := regexp.MustCompile("^\\| ([a-z/]+) \\| (`.*`) \\| [^|]{4,} \\|$"), regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(string(text)) {
		cells := row.FindStringSubmatch(strings.TrimSpace(line))
		if cells == nil {
			continue
		}
		for _, name := range quoted.FindAllStringSubmatch(cells[2], -1) {
			if strings.Contains(name[1], ".") {
				l.calls[cells[1]+" "+name[1]] = false
			} else {
				l.others[cells[1]+" "+name[1]] = false
			}
		}
	}
	if len(l.calls) < 20 || len(l.others) < 10 {
		t.Fatalf("docs/loop.md lists %d calls and %d functions: the tables have another form", len(l.calls), len(l.others))
	}
	return l
}

// call is a function of a package that makes system calls, and the function that calls it.
type call struct{ from, called string }

func callsOf(t *testing.T, name string) (all []call) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", name, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(name, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		watched := watchedImports(t, f)
		for _, d := range f.Decls {
			all = append(all, callsIn(d, watched)...)
		}
	}
	return all
}

// watchedImports maps the names by which a file has the packages that make system calls to their own names.
func watchedImports(t *testing.T, f *ast.File) map[string]string {
	t.Helper()
	known := map[string]string{
		"golang.org/x/sys/unix": "unix", "syscall": "syscall", "os": "os", "os/exec": "exec", "net": "net", "time": "time",
	}
	watched := map[string]string{}
	for _, i := range f.Imports {
		own := known[strings.Trim(i.Path.Value, `"`)]
		switch {
		case own == "":
		case i.Name == nil:
			watched[own] = own
		case i.Name.Name == ".":
			t.Errorf("import . of %s: its calls cannot be told", own)
		default:
			watched[i.Name.Name] = own
		}
	}
	return watched
}

// callsIn lists the calls in a declaration, and the functions of these packages that it uses as values.
func callsIn(d ast.Decl, watched map[string]string) (all []call) {
	from := "a variable"
	if f, ok := d.(*ast.FuncDecl); ok {
		from = f.Name.Name
	}
	ast.Inspect(d, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		pkg, name := selected(c.Fun)
		switch pkg = watched[pkg]; {
		case pkg == "", pkg == "time" && name != "Sleep", slices.Contains(conversions, name):
		default:
			all = append(all, call{from, numbered(pkg+"."+name, c.Args)})
		}
		for _, arg := range c.Args {
			if pkg, name := selected(arg); watched[pkg] == "unix" && looksLikeFunction(name) {
				all = append(all, call{from, "unix." + name})
			}
		}
		return true
	})
	return all
}

func selected(e ast.Expr) (pkg, name string) {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name, s.Sel.Name
		}
	}
	return "", ""
}

// numbered names a raw system call by its number's name.
func numbered(name string, args []ast.Expr) string {
	if strings.Contains(name, ".RawSyscall") || strings.Contains(name, ".Syscall") {
		if _, number := selected(args[0]); number != "" {
			return "unix." + number
		}
	}
	return name
}

// looksLikeFunction: a constant of package unix is in capitals, or a size.
func looksLikeFunction(name string) bool {
	return name != strings.ToUpper(name) && !strings.HasPrefix(name, "Sizeof")
}

// conversions look like calls.
var conversions = []string{"Errno", "Signal"}

// The test sees raw calls by their number's name, calls under another import's name, and functions
// given as arguments.
func TestCallsAreFound(t *testing.T) {
	const text = `package p
import ("golang.org/x/sys/unix"; sys "syscall"; "time"; "os")
func f() { unix.RawSyscall6(unix.SYS_ACCEPT4, 0); sys.Close(1); time.Sleep(1); time.Now(); defer do(unix.Fsync); _ = os.Remove; unix.Errno(3) }`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := callsIn(f.Decls[1], watchedImports(t, f))
	want := []call{{"f", "unix.SYS_ACCEPT4"}, {"f", "syscall.Close"}, {"f", "time.Sleep"}, {"f", "unix.Fsync"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
