package host

import "bytes"

// framer follows the bytes of a connection and finds where each HTTP/1 request ends (RFC 9112). It answers one question, "between requests?",
// and changes nothing: the server behind it parses the same bytes and stays the judge.
//
//	start ─► head ─┬────────────────────────────────────► complete ─► start …
//	               ├─► body ──────────────────────────────►┤
//	               └─► size ─► data ─► gap ─► size … trailer ┘
//
// What it cannot place without a guess makes it opaque, from any stage and for good: two lengths, obsolete folding, a bad chunk. An opaque
// connection serves out its present request and is closed. A stream that is not HTTP/1 at all is foreign: its server keeps it.
type framer struct {
	stage  stage
	final  bool   // no request may follow this one
	need   int64  // bytes of body or chunk to come
	line   []byte // beginning of a line whose end has not come
	first  bool   // the next line is the request line
	minor  byte   // of the HTTP version: '0' or '1'
	length int64  // Content-Length, -1 without
	coded  bool   // Transfer-Encoding: chunked
	extra  int    // bytes of trailer so far
}

type stage uint8

const (
	stageStart stage = iota // nothing of the next request has come
	stageHead
	stageBody
	stageSize // of a chunk: its line
	stageData
	stageGap // the CRLF behind a chunk
	stageTrailer
	stageComplete
	stageOpaque
	stageForeign
)

const (
	maxLine    = 16 << 10 // a line longer than this makes the framer opaque
	maxTrailer = 4 << 10  // so does a longer trailer; net/http refuses it
)

// blank returns how many bytes of p, which come before a request, are empty lines to be dropped (RFC 9112, 2.2).
func blank(p []byte) int {
	n := 0
	for n < len(p) && (p[n] == '\r' || p[n] == '\n') {
		n++
	}
	return n
}

// next prepares for the request after the one that is complete.
func (f *framer) next() {
	if f.stage == stageComplete {
		*f = framer{line: f.line[:0], final: f.final}
	}
}

// passes reports whether the framer no longer looks.
func (f *framer) passes() bool { return f.stage == stageOpaque || f.stage == stageForeign }

// scan takes the bytes of p that belong to the present request and returns their number: all of them unless the request is complete.
func (f *framer) scan(p []byte) int {
	n := 0
	for n < len(p) && f.stage != stageComplete && !f.passes() {
		n += f.step(p[n:])
	}
	if f.passes() {
		return len(p)
	}
	return n
}

func (f *framer) step(p []byte) int {
	switch f.stage {
	case stageStart:
		f.begin(p[0])
		return 0
	case stageBody:
		return f.skip(p, stageComplete)
	case stageData:
		return f.skip(p, stageGap)
	default:
		return f.lines(p)
	}
}

// begin looks at the first byte of a request: a TLS handshake begins with 22 (RFC 8446, 5.1), HTTP never does.
func (f *framer) begin(c byte) {
	if c == 0x16 {
		f.stage = stageForeign
		return
	}
	f.stage, f.first, f.length = stageHead, true, -1
}

// skip takes what is left of a body or chunk.
func (f *framer) skip(p []byte, then stage) int {
	n := min(f.need, int64(len(p)))
	if f.need -= n; f.need == 0 {
		f.stage = then
	}
	return int(n)
}

// lines takes the rest of a line, and acts on it if its end is here.
func (f *framer) lines(p []byte) int {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		f.hold(p)
		return len(p)
	}
	line := p[:i]
	if len(f.line) > 0 {
		f.hold(line)
		line = f.line
	}
	if f.stage != stageOpaque {
		f.obey(line)
	}
	f.line = f.line[:0]
	return i + 1
}

func (f *framer) hold(p []byte) {
	if len(f.line)+len(p) > maxLine {
		f.stage = stageOpaque
		return
	}
	f.line = append(f.line, p...)
}

// obey acts on a line without its LF. A head may end its lines with a bare LF, as net/http accepts; the lines of a chunked body may not.
func (f *framer) obey(line []byte) {
	text, crlf := bytes.CutSuffix(line, []byte{'\r'})
	switch {
	case f.stage == stageHead && f.first:
		f.requestLine(text)
	case f.stage == stageHead:
		f.field(text)
	case !crlf || bytes.IndexByte(text, '\r') >= 0:
		f.stage = stageOpaque
	case f.stage == stageSize:
		f.chunkSize(text)
	case f.stage == stageGap:
		f.gap(text)
	case f.stage == stageTrailer:
		f.trailer(text)
	}
}

func (f *framer) requestLine(line []byte) {
	f.first = false
	method, rest, _ := bytes.Cut(line, []byte{' '})
	_, version, _ := bytes.Cut(rest, []byte{' '})
	switch {
	case string(line) == "PRI * HTTP/2.0": // RFC 9113, 3.4
		f.stage = stageForeign
	case len(method) == 0 || string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0":
		f.stage = stageOpaque
	case string(method) == "CONNECT": // what follows a refusal is not to be told from what was meant for the tunnel
		f.final = true
	}
	if len(version) > 0 {
		f.minor = version[len(version)-1]
	}
}

// field acts on a header field, or on the empty line that ends the head.
func (f *framer) field(line []byte) {
	if len(line) == 0 {
		f.endHead()
		return
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !isToken(name) { // a folded line begins with a space, which is no token either
		f.stage = stageOpaque
		return
	}
	switch {
	case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
		f.contentLength(bytes.Trim(value, " \t"))
	case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
		f.transferEncoding(bytes.Trim(value, " \t"))
	}
}

func (f *framer) contentLength(value []byte) {
	n, ok := number(value, 10, 18)
	if !ok || f.length >= 0 || f.coded {
		f.stage = stageOpaque
		return
	}
	f.length = n
}

func (f *framer) transferEncoding(value []byte) {
	if f.minor != '1' || f.length >= 0 || f.coded || !bytes.EqualFold(value, []byte("chunked")) {
		f.stage = stageOpaque
		return
	}
	f.coded = true
}

func (f *framer) endHead() {
	switch {
	case f.coded:
		f.stage = stageSize
	case f.length > 0:
		f.stage, f.need = stageBody, f.length
	default:
		f.stage = stageComplete
	}
}

// chunkSize: extensions are passed over, as net/http does.
func (f *framer) chunkSize(line []byte) {
	size, _, _ := bytes.Cut(bytes.TrimRight(line, " \t"), []byte{';'})
	n, ok := number(size, 16, 15)
	switch {
	case !ok || len(line) >= 4096-2: // net/http's limit for this line
		f.stage = stageOpaque
	case n == 0:
		f.stage, f.extra = stageTrailer, 0
	default:
		f.stage, f.need = stageData, n
	}
}

func (f *framer) gap(line []byte) {
	if len(line) > 0 {
		f.stage = stageOpaque
		return
	}
	f.stage = stageSize
}

func (f *framer) trailer(line []byte) {
	name, _, ok := bytes.Cut(line, []byte{':'})
	f.extra += len(line) + 2
	switch {
	case len(line) == 0:
		f.stage = stageComplete
	case !ok || !isToken(name) || f.extra > maxTrailer:
		f.stage = stageOpaque
	}
}

// number reads 1 to most digits and nothing else.
func number(s []byte, base int64, most int) (n int64, ok bool) {
	if len(s) == 0 || len(s) > most {
		return 0, false
	}
	for _, c := range s {
		d := digit(c)
		if d >= base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}

func digit(c byte) int64 {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10
	}
	return 16
}

// isToken: RFC 9110, 5.6.2.
func isToken(s []byte) bool {
	for _, c := range s {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(s) > 0
}

var tokenBytes = func() (t [256]bool) {
	for c := range 256 {
		b := byte(c)
		t[c] = 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0
	}
	return t
}()
