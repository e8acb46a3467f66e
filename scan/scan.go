// Package scan tells when an HTTP/1 request has arrived, so that a worker is only busy with whole ones. It looks and judges nothing: whatever
// it cannot place is handed over at once, to the parser of the host that will answer it. Rules are those of RFC 9112.
package scan

import "bytes"

// Verdict says what to do with a connection whose first bytes have been looked at.
type Verdict uint8

// The verdicts.
const (
	// More: the request has not arrived. Look again when Need bytes have.
	More Verdict = iota
	// Whole: Total bytes are the request, the first Head of them its head.
	Whole
	// HeadOnly: the head has arrived; the body is not waited for: it is longer than Limits.Wait, or the client waits for "100 Continue".
	HeadOnly
	// Opaque: this is not a request whose end can be told (another protocol, or a malformed one). The host's parser will judge it.
	Opaque
	// HeadTooLong: no end of the head within Limits.Head (431, RFC 6585).
	HeadTooLong
	// BodyTooLong: the body announced is longer than Limits.Body (413, RFC 9110).
	BodyTooLong
	// Malformed: what RFC 9112 says a server must answer with 400 whoever it is: a field name followed by white space (5.1), a
	// Content-Length that is no number or two different ones (6.3).
	Malformed
)

func (v Verdict) String() string {
	return [...]string{"more", "whole", "head only", "opaque", "head too long", "body too long", "malformed"}[v]
}

// Limits bound what is waited for, in bytes. The zero value waits for heads of any length, and no body.
type Limits struct {
	Head int   // longest head; 0: none
	Wait int   // longest body to wait for
	Body int64 // longest body at all; 0: none
}

// Seen is what a look has found.
type Seen struct {
	Verdict Verdict
	Head    int // length of the head with its empty line, and with empty lines before it; 0 if unknown
	Total   int // length of the whole request; 0 if unknown or not all here
	Need    int // with More: bytes that must be there before another look can find more; at least one more than there are now
}

// Request looks at b, the first bytes of a connection's receive queue, of which there are avail (at least len(b)). If it answers More with
// Need at most avail, it has to see more of the bytes that are already there.
func Request(b []byte, avail int, limits Limits) Seen {
	start := skipEmptyLines(b)
	if start == len(b) {
		return more(avail + 1)
	}
	if !isToken(b[start]) {
		return Seen{Verdict: Opaque}
	}
	h, verdict := readHead(b, start)
	switch {
	case verdict != More && verdict != Whole:
		return Seen{Verdict: verdict}
	case limits.Head > 0 && (verdict == Whole && h.end-start > limits.Head || verdict == More && len(b)-start > limits.Head):
		return Seen{Verdict: HeadTooLong}
	case verdict == More:
		return more(len(b) + 1)
	}
	return h.body(b, avail, limits)
}

func more(need int) Seen { return Seen{Verdict: More, Need: need} }

// skipEmptyLines: a client may send empty lines before a request (RFC 9112, section 2.2).
func skipEmptyLines(b []byte) int {
	for i, c := range b {
		if c != '\r' && c != '\n' {
			return i
		}
	}
	return len(b)
}

// head is what the body's length depends on.
type head struct {
	end     int // of the head, its empty line included
	length  int64
	framing framing
	expects bool // "Expect: 100-continue"
	tunnel  bool // CONNECT or Upgrade: what follows is not a body
}

type framing uint8

const (
	none framing = iota
	contentLength
	chunked
	unknown // both lengths, or a coding that does not end in chunked
)

// readHead reads lines up to the empty one: More if it is not there yet. A line ends in LF, with or without CR (section 2.2).
func readHead(b []byte, start int) (head, Verdict) {
	var h head
	at := start
	for first := true; ; first = false {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return h, More
		}
		line := bytes.TrimSuffix(b[at:at+i], []byte{'\r'})
		at += i + 1
		verdict := Whole
		switch {
		case len(line) == 0:
			h.end = at
			return h, Whole
		case first:
			verdict = h.requestLine(line)
		default:
			verdict = h.field(line)
		}
		if verdict != Whole {
			return h, verdict
		}
	}
}

// requestLine knows two things: a line without a version is HTTP/0.9, which has no head; HTTP/2 begins with a line of its own (RFC 9113, 3.4).
func (h *head) requestLine(line []byte) Verdict {
	if !bytes.Contains(line, []byte(" HTTP/1.")) {
		return Opaque
	}
	h.tunnel = bytes.HasPrefix(line, []byte("CONNECT "))
	return Whole
}

func (h *head) field(line []byte) Verdict {
	name, value, found := bytes.Cut(line, []byte{':'})
	switch {
	case line[0] == ' ' || line[0] == '\t' || !found || bytes.IndexByte(line, 0) >= 0:
		return Opaque // folded, no field, or NUL: the host decides
	case len(name) > 0 && (name[len(name)-1] == ' ' || name[len(name)-1] == '\t'):
		return Malformed
	}
	value = bytes.Trim(value, " \t")
	switch {
	case is(name, "content-length"):
		return h.contentLength(value)
	case is(name, "transfer-encoding"):
		h.transferEncoding(value)
	case is(name, "expect"):
		h.expects = h.expects || is(value, "100-continue")
	case is(name, "upgrade"):
		h.tunnel = true
	}
	return Whole
}

// is compares without regard to case; want is in lower case.
func is(b []byte, want string) bool {
	return len(b) == len(want) && bytes.EqualFold(b, []byte(want))
}

func (h *head) contentLength(value []byte) Verdict {
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' || n > 1<<53 {
			return Malformed
		}
		n = n*10 + int64(c-'0')
	}
	if len(value) == 0 || h.framing == contentLength && n != h.length {
		return Malformed
	}
	h.length = n
	if h.framing == none {
		h.framing = contentLength
	} else if h.framing == chunked {
		h.framing = unknown
	}
	return Whole
}

func (h *head) transferEncoding(value []byte) {
	if h.framing == none && is(value, "chunked") {
		h.framing = chunked
		return
	}
	h.framing = unknown
}

// body decides how much of the request to wait for.
func (h *head) body(b []byte, avail int, limits Limits) Seen {
	seen := Seen{Verdict: HeadOnly, Head: h.end}
	switch {
	case h.framing == unknown:
		seen.Verdict = Opaque
	case h.framing == none || h.framing == contentLength && h.length == 0:
		seen.Verdict, seen.Total = Whole, h.end
	case h.framing == contentLength && limits.Body > 0 && h.length > limits.Body:
		seen.Verdict = BodyTooLong
	case h.framing == contentLength:
		h.fixed(&seen, avail, limits)
	case limits.Wait > 0:
		chunks(&seen, b, avail, limits)
	}
	if seen.Verdict == More && h.expects || h.tunnel && seen.Verdict == More {
		return Seen{Verdict: HeadOnly, Head: h.end}
	}
	return seen
}

func (h *head) fixed(seen *Seen, avail int, limits Limits) {
	switch total := int64(h.end) + h.length; {
	case int64(avail) >= total:
		seen.Verdict, seen.Total = Whole, int(total)
	case h.length <= int64(limits.Wait):
		seen.Verdict, seen.Need = More, int(total)
	}
}

// chunks walks a chunked body (section 7.1). Beyond Limits.Wait it is not waited for; a malformed one is the host's to judge.
func chunks(seen *Seen, b []byte, avail int, limits Limits) {
	at := seen.Head
	for {
		i := bytes.IndexByte(b[at:], '\n')
		size, ok := int64(0), true
		if i >= 0 {
			size, ok = chunkSize(b[at : at+i])
		}
		switch {
		case !ok:
			seen.Verdict = Opaque
			return
		case i < 0:
			moreOfChunks(seen, len(b)+1, limits)
			return
		case size == 0:
			trailers(seen, b, at+i+1, limits)
			return
		case size > int64(limits.Wait):
			return // HeadOnly
		}
		at += i + 1 + int(size) + 2 // the chunk's data and its CRLF
		if at >= len(b) {
			moreOfChunks(seen, at+len("0\r\n\r\n"), limits)
			return
		}
	}
}

// moreOfChunks waits for bytes, unless that is more than is waited for.
func moreOfChunks(seen *Seen, need int, limits Limits) {
	if need-seen.Head <= limits.Wait {
		seen.Verdict, seen.Need = More, need
	}
}

// chunkSize reads the hexadecimal size before any extension.
func chunkSize(line []byte) (int64, bool) {
	line, _, _ = bytes.Cut(bytes.TrimSuffix(line, []byte{'\r'}), []byte{';'})
	line = bytes.TrimRight(line, " \t")
	n := int64(0)
	for _, c := range line {
		digit := hexDigit(c)
		if digit < 0 || n > 1<<48 {
			return 0, false
		}
		n = n<<4 | digit
	}
	return n, len(line) > 0
}

func hexDigit(c byte) int64 {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10
	}
	return -1
}

// trailers ends at the first empty line.
func trailers(seen *Seen, b []byte, at int, limits Limits) {
	for {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			moreOfChunks(seen, len(b)+1, limits)
			return
		}
		empty := len(bytes.TrimSuffix(b[at:at+i], []byte{'\r'})) == 0
		at += i + 1
		if empty {
			seen.Verdict, seen.Total = Whole, at
			return
		}
	}
}

// isToken: the first byte of a method (RFC 9110, section 5.6.2).
func isToken(c byte) bool {
	switch {
	case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9':
		return true
	}
	return bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}
