package manager_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// calls are the functions of package unix that the loop may call, each with the reason why it does not block. docs/loop.md says it at length.
var calls = map[string]string{
	"IoctlGetInt": "SIOCINQ, SIOCOUTQ: the socket's lock", "FcntlInt": "F_GETFL, F_DUPFD", "SetNonblock": "F_SETFL",
	"Shutdown": "the socket's lock", "Sendto": "MSG_DONTWAIT", "RawSyscall6": "recvfrom with MSG_DONTWAIT, or no wait",
	"RawSyscall": "connect with AF_UNSPEC, write to an eventfd", "GetsockoptInt": "the socket's lock", "SetsockoptInt": "the socket's lock",
	"GetsockoptTCPInfo": "the socket's lock", "Getpeername": "no lock", "Getsockname": "no lock",
	"Close": "what no one else has had (closeFD), or is harmless by now", "MemfdCreate": "at start", "Ftruncate": "at start",
	"Mmap": "at start", "Munmap": "at the end", "Pread": "at start: the memory", "Madvise": "the memory", "ClockGettime": "no lock",
	"Getrlimit": "no lock", "Getpagesize": "no system call", "Socket": "a new one", "Socketpair": "a new pair", "Fstat": "sockets only, at start (known)", "Listen": "the socket's lock",
}

// TestTheLoopMakesNoOtherSystemCall: a call that is not listed above may block.
func TestTheLoopMakesNoOtherSystemCall(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, called := range callsOf(f) {
			if calls[called] == "" {
				t.Errorf("%s calls unix.%s: say in the list why it does not block, or let a helper do it", name, called)
			}
		}
	}
}

// callsOf lists the functions of package unix and syscall that a file calls.
func callsOf(f *ast.File) (called []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "unix" || x.Name == "syscall") && !slices.Contains(conversions, s.Sel.Name) {
				called = append(called, s.Sel.Name)
			}
		}
		return true
	})
	return called
}

// conversions look like calls.
var conversions = []string{"Errno", "Signal"}
