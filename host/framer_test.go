package host

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestFramer(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, test := range []struct {
		name    string
		request string // ends where the request does; what follows the mark | is the next one's
		end     stage
	}{
		{"no body", "GET / HTTP/1.1\r\nHost: a\r\n\r\n|GET", stageComplete},
		{"bare LF", "GET / HTTP/1.1\nHost: a\n\n|GET", stageComplete},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n|", stageComplete},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n|HEAD", stageComplete},
		{"length", post + "Content-Length: 5\r\n\r\n12345|POST", stageComplete},
		{"length in another case, with spaces", post + "cOnTeNt-LeNgTh: \t 5 \t\r\n\r\n12345|POST", stageComplete},
		{"length 0", post + "Content-Length: 0\r\n\r\n|POST", stageComplete},
		{"a body on GET", "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab|GET", stageComplete},
		{"chunked", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nA ; x=y\r\n0123456789\r\n0\r\n\r\n|POST", stageOpaque}, // net/http refuses "A "
		{"chunked with extension", post + "Transfer-Encoding: Chunked\r\n\r\n5;x=\"y\"\r\nabcde\r\na\r\n0123456789\r\n0\r\n\r\n|POST", stageComplete},
		{"trailers", post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n|POST", stageComplete},
		{"CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n|x", stageComplete},
		{"begun, not ended", post + "Content-Length: 5\r\n\r\n1234", stageBody},
		{"half a head", "GET / HTTP/1.1\r\nHos", stageHead},

		{"both lengths", post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", stageOpaque},
		{"both lengths, the other way round", post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", stageOpaque},
		{"two lengths", post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", stageOpaque},
		{"the same length twice", post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", stageOpaque},
		{"a list of lengths", post + "Content-Length: 5, 5\r\n\r\n", stageOpaque},
		{"a signed length", post + "Content-Length: +5\r\n\r\n", stageOpaque},
		{"an empty length", post + "Content-Length:\r\n\r\n", stageOpaque},
		{"a length beyond all bounds", post + "Content-Length: 9999999999999999999\r\n\r\n", stageOpaque},
		{"another coding", post + "Transfer-Encoding: gzip, chunked\r\n\r\n", stageOpaque},
		{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", stageOpaque},
		{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", stageOpaque},
		{"folding", "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", stageOpaque},
		{"a space before the colon", post + "Content-Length : 5\r\n\r\n", stageOpaque},
		{"no colon", post + "nonsense\r\n\r\n", stageOpaque},
		{"another version", "GET / HTTP/1.2\r\n\r\n", stageOpaque},
		{"HTTP/0.9", "GET /\r\n", stageOpaque},
		{"a chunk size that is none", post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", stageOpaque},
		{"a chunk size with a sign", post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", stageOpaque},
		{"a chunk size of 16 digits", post + "Transfer-Encoding: chunked\r\n\r\n0000000000000001\r\n", stageOpaque},
		{"bare LF in chunks", post + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", stageOpaque},
		{"a chunk longer than it says", post + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", stageOpaque},
		{"a long trailer", post + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + strings.Repeat("x", maxTrailer) + "\r\n\r\n", stageOpaque},
		{"a very long line", "GET / HTTP/1.1\r\nA: " + strings.Repeat("x", 2*maxLine), stageOpaque},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", stageForeign},
		{"TLS", "\x16\x03\x01\x02\x00", stageForeign},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, behind, _ := strings.Cut(test.request, "|")
			for _, size := range []int{len(test.request), 1, 2, 3, 7} {
				if test.name == "a very long line" && size < 100 {
					size = maxLine / 4 // a line that is whole at once needs no holding
				}
				f, taken := scanIn(request+behind, size)
				if f.stage != test.end || test.end == stageComplete && taken != len(request) {
					t.Errorf("in pieces of %d: stage %d after %d bytes, want %d after %d", size, f.stage, taken, test.end, len(request))
				}
			}
		})
	}
}

// scanIn gives the framer one request in pieces of a size, and returns how many bytes it took.
func scanIn(s string, size int) (f *framer, taken int) {
	f = new(framer)
	for taken < len(s) && f.stage != stageComplete {
		p := []byte(s[taken:min(taken+size, len(s))])
		taken += f.scan(p)
	}
	return f, taken
}

func TestAfterConnectNothingFollows(t *testing.T) {
	f, _ := scanIn("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 100)
	if f.next(); !f.final {
		t.Error("a connection must not be put after CONNECT")
	}
}

func TestFramingAllocatesNothing(t *testing.T) {
	request := []byte("POST /some/path HTTP/1.1\r\nHost: example.org\r\nUser-Agent: x\r\nAccept: */*\r\nContent-Length: 5\r\n\r\n12345")
	var f framer
	if n := testing.AllocsPerRun(100, func() {
		if f.scan(request) != len(request) || f.stage != stageComplete {
			t.Fatal(f.stage)
		}
		f.next()
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// FuzzFramer holds the framer against net/http's own parser: where net/http accepts a request and reads its body, the framer must have found
// the same end, or have said that it does not know.
func FuzzFramer(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345\r\nGET /2 HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nabcde\r\n0\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
		"GET / HTTP/1.1\nA: b\n c\n\n", "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"CONNECT a HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		counted := &counter{r: bytes.NewReader(stream)}
		r := bufio.NewReader(counted)
		var fr framer
		at := 0
		for {
			skipBlank(r)
			at += blank(stream[at:])
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return // the server answers and closes, whatever the framer thinks
			}
			_ = body
			end := counted.n - r.Buffered()
			begin := at
			for at < len(stream) && fr.stage != stageComplete && !fr.passes() {
				at += fr.scan(stream[at:min(at+int(size)+1, len(stream))])
			}
			if fr.passes() {
				return
			}
			if fr.stage != stageComplete || at != end {
				t.Fatalf("request at %d: the framer is at stage %d after %d, net/http ended it at %d", begin, fr.stage, at, end)
			}
			fr.next()
		}
	})
}

// counter counts what was read.
type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func skipBlank(r *bufio.Reader) {
	for {
		b, err := r.Peek(1)
		if err != nil || b[0] != '\r' && b[0] != '\n' {
			return
		}
		_, _ = r.Discard(1)
	}
}
