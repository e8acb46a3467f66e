package scan

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// patient waits for whatever has not arrived by the end of an input.
var patient = Limits{Wait: 1 << 20}

func seed(f *testing.F, add func(input []byte)) {
	f.Helper()
	for _, d := range disguises() {
		add([]byte("POST / HTTP/1.1\r\n" + d.lines + "\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG"))
	}
	for _, s := range []string{
		"", get, get + get, "\r\n" + get, "GET /\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01", "CONNECT a:1 HTTP/1.1\r\n\r\nx",
		"GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello" + get,
		"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
		"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n" + get,
		"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		add([]byte(s))
	}
}

// FuzzReference compares with net/http. A request called Whole must not keep net/http waiting for a byte more than Total, and must end where
// net/http says, unless it is refused; and what net/http takes for a whole request must not be waited for.
func FuzzReference(f *testing.F) {
	seed(f, func(input []byte) { f.Add(input) })
	f.Fuzz(func(t *testing.T, input []byte) {
		seen := Request(input, len(input), patient)
		switch seen.Verdict {
		case Whole:
			if r := reference(input[:seen.Total]); r.waits || r.err == nil && r.taken != seen.Total {
				t.Errorf("whole %+v, but net/http: %+v", seen, r)
			}
		case More:
			if r := reference(input); r.err == nil && !r.waits {
				t.Errorf("%+v, but net/http takes %d bytes of %d for a whole request", seen, r.taken, len(input))
			}
		default: // handed over without its end, or refused: both are allowed whatever net/http thinks
		}
	})
}

// reading is what net/http makes of an input.
type reading struct {
	taken int   // bytes it has consumed
	waits bool  // it asked for more than there was
	err   error // it refused the request, or ran out of bytes
}

func reference(input []byte) reading {
	src := &arrived{rest: input}
	buffered := bufio.NewReader(src)
	r, err := http.ReadRequest(buffered)
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	return reading{taken: len(input) - len(src.rest) - buffered.Buffered(), waits: src.asked, err: err}
}

var errWouldBlock = errors.New("nothing more has arrived")

// arrived reads what is there and notes when it is asked for more, where a connection would block.
type arrived struct {
	rest  []byte
	asked bool
}

func (a *arrived) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		a.asked = true
		return 0, errWouldBlock
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// FuzzArrival lets the input arrive in pieces and looks as the manager does. However it is cut, the verdict is the same.
func FuzzArrival(f *testing.F) {
	seed(f, func(input []byte) {
		f.Add(input, uint16(0), uint16(0), uint16(0), uint16(0))
		f.Add(input, uint16(0), uint16(999), uint16(0), uint16(2))
		f.Add(input, uint16(60), uint16(100), uint16(4), uint16(7))
	})
	f.Fuzz(func(t *testing.T, input []byte, head, wait, body, piece uint16) {
		if len(input) > 2000 {
			return // quadratic
		}
		limits := Limits{Head: int(head), Wait: int(wait), Body: int64(body)}
		atOnce := settle(t, input, len(input), limits)
		for _, step := range []int{1, int(piece)%97 + 1} {
			if got := arrive(t, input, step, limits); !agree(got, atOnce, input) {
				t.Errorf("in pieces of %d: %+v, at once: %+v", step, got, atOnce)
			}
			resume(t, input, step, limits)
		}
	})
}

// arrive looks each time Need bytes are there, and at a few more moments.
func arrive(t *testing.T, input []byte, step int, limits Limits) Seen {
	t.Helper()
	seen := more(0)
	for there := 0; ; there = min(there+step, len(input)) {
		if early := settle(t, input, there, limits); there >= seen.Need || early.Verdict != More {
			if there < seen.Need {
				t.Errorf("%+v, but %d bytes were enough for %+v", seen, there, early)
			}
			seen = early
		}
		if seen.Verdict != More || there == len(input) {
			return seen
		}
	}
}

// resume lets one Scanner look at each piece. It sees what another sees that begins at the first
// byte, and reads no byte twice.
func resume(t *testing.T, input []byte, step int, limits Limits) {
	t.Helper()
	var s Scanner
	for there := 0; ; there = min(there+step, len(input)) {
		got := s.Look(input[:there], there, limits)
		if want := Request(input[:there], there, limits); got != want {
			t.Errorf("%d bytes of %q, %d more each time: %+v; all at once: %+v", there, input, step, got, want)
		}
		if s.read > there {
			t.Errorf("%d bytes were read of %d that are there", s.read, there)
		}
		if got.Verdict != More || there == len(input) {
			return
		}
	}
}

// settle looks at what is there through a window that grows as asked, and checks each answer by itself.
func settle(t *testing.T, input []byte, there int, limits Limits) Seen {
	t.Helper()
	for shown := 0; ; {
		seen := Request(input[:shown], there, limits)
		check(t, seen, shown, there)
		if seen.Verdict != More || seen.Need > there {
			return seen
		}
		shown = min(there, max(seen.Need, 2*shown))
	}
}

func check(t *testing.T, seen Seen, shown, there int) {
	t.Helper()
	var ok bool
	switch seen.Verdict {
	case More:
		ok = seen.Need > shown && seen.Head == 0 && seen.Total == 0 && (!seen.Empty || !seen.Bodiless)
	case Whole:
		ok = seen.Head > 0 && seen.Head <= shown && seen.Total >= seen.Head && seen.Total <= there && seen.Need == 0
	case HeadOnly:
		ok = seen.Head > 0 && seen.Head <= shown && seen.Total == 0 && seen.Need == 0
	default:
		ok = seen == Seen{Verdict: seen.Verdict, Bodiless: seen.Bodiless}
	}
	if !ok {
		t.Errorf("%d bytes shown of %d: %+v", shown, there, seen)
	}
}

// agree: the verdicts are the same, but for a body that is not waited for. It may all be there at once, or be seen to be too long or odd in a
// part that is looked at only by chance.
func agree(pieces, atOnce Seen, input []byte) bool {
	if pieces == atOnce {
		return true
	}
	chunked := bytes.Contains(bytes.ToLower(input), []byte("chunked"))
	switch {
	case pieces.Verdict != HeadOnly:
		return false
	case atOnce.Verdict == Whole:
		return atOnce.Head == pieces.Head
	}
	return chunked && (atOnce.Verdict == Opaque || atOnce.Verdict == BodyTooLong)
}

// TestEveryCut cuts well-formed requests in two at every byte: the first part is waited for, with the second the request is whole.
func TestEveryCut(t *testing.T) {
	for _, request := range []string{
		get,
		"\r\n" + get,
		"POST / HTTP/1.0\r\nContent-Length: 11\r\n\r\nhello world",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n1\r\n!\r\n000\r\nA: b\r\n\r\n",
	} {
		for cut := range len(request) {
			if seen := settle(t, []byte(request), cut, patient); seen.Verdict != More || seen.Need > len(request) {
				t.Errorf("%q: %+v", request[:cut], seen)
			}
		}
		if seen := settle(t, []byte(request+get), len(request+get), patient); seen.Total != len(request) {
			t.Errorf("%q: %+v", request, seen)
		}
	}
}

// TestReferenceWaits keeps the reference honest: it must tell a request that net/http would wait for from one it refuses.
func TestReferenceWaits(t *testing.T) {
	const chunks = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for input, waits := range map[string]bool{
		get:                               false,
		strings.TrimSuffix(get, "\n"):     true,
		chunks + "0\r\n":                  true,
		chunks + "0\r\nA: b\n\n":          true,
		chunks + "0\r\nA: b\r\n\r\n":      false,
		chunks + "5\nhello\r\n0\r\n\r\n":  false,
		"GET / HTTP/1.1\r\nA : b\r\n\r\n": false,
	} {
		if r := reference([]byte(input)); r.waits != waits {
			t.Errorf("%q: %+v", input, r)
		}
	}
}

// FuzzTaken lets one Scanner look at bytes that change between two looks: a host that has kept its
// descriptor of an idle connection reads from it. Whatever the Scanner then says is possible for what
// it is shown; if fewer bytes are there than it has read, it begins again.
func FuzzTaken(f *testing.F) {
	f.Add([]byte("\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost"), []byte("Host:"), uint8(3))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), []byte("0\r\n"), uint8(7))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"), []byte("\r\n\r\n"), uint8(1))
	for _, request := range []string{get, "\r\n" + get} {
		f.Add([]byte(request[:len(request)-1]), []byte(request), uint8(2))
	}
	f.Fuzz(func(t *testing.T, before, after []byte, step uint8) {
		var s Scanner
		for there := 0; there < len(before); there += int(step) + 1 {
			if seen := s.Look(before[:there], there, patient); seen.Verdict != More {
				return
			}
		}
		shown := s.shown
		seen := s.Look(after, len(after), patient)
		check(t, seen, len(after), len(after))
		if fresh := Request(after, len(after), patient); len(after) < shown && seen != fresh {
			t.Errorf("%q in the place of %q: %+v, want %+v", after, before, seen, fresh)
		}
	})
}
