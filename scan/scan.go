// Package scan tells when an HTTP/1 request has arrived, so that a worker is only ever busy with whole ones. It looks at bytes and changes
// none. The parser of the host that answers stays the judge of a request: where two careful parsers could differ about its length, scan
// claims no length. Section numbers without a document are those of RFC 9112.
package scan

import "bytes"

// Verdict says what to do with a connection whose first bytes have been looked at.
type Verdict uint8

// The verdicts. All but More are final.
const (
	// More: the request has not arrived. Look again when Need bytes have.
	More Verdict = iota
	// Whole: Total bytes are the request, the first Head of them its head. What follows is the next request.
	Whole
	// HeadOnly: the head has arrived, and its body is not waited for: it is longer than Limits.Wait, or the client may itself be waiting
	// for an answer to its Expect field (RFC 9110, 10.1.1; see Limits.Expect), or the request is a CONNECT.
	HeadOnly
	// Opaque: a head has arrived, but parsers differ about what belongs to it. Both lengths are left to the parser of the host.
	Opaque
	// HeadTooLong: no end of the head within Limits.Head (431, RFC 6585).
	HeadTooLong
	// BodyTooLong: the body announced is longer than Limits.Body (413, RFC 9110).
	BodyTooLong
	// Malformed: no HTTP/1 request begins like this, or it has what the RFC wants answered with 400, or lets any server answer so: bare CR
	// (2.2), white space before a colon (5.1), NUL (RFC 9110, 5.5), a Content-Length that is no number or two that differ (6.3).
	Malformed
)

func (v Verdict) String() string {
	return [...]string{"more", "whole", "head only", "opaque", "head too long", "body too long", "malformed"}[v]
}

// Limits bound what is waited for, in bytes. The zero value waits for heads of any length, and for no body.
type Limits struct {
	Head int   // longest head, empty line included; 0: none
	Wait int   // longest body to wait for, as sent: a chunked one with its sizes and trailers
	Body int64 // longest body at all, without chunk sizes; 0: none
	// Expect waits for bodies though their clients wait for 100 Continue, which whoever looks has to send: Seen.Expects says so.
	Expect bool
}

// MaxEmptyLines is how many bytes of empty lines may come before a request. Section 2.2 asks servers to skip at least one such line.
const MaxEmptyLines = 16

// Seen is what a look has found.
type Seen struct {
	Verdict  Verdict
	Head     int  // with Whole and HeadOnly: length of the head, with its empty line and the empty lines before it
	Total    int  // with Whole: length of the request
	Expects  bool // with More: the client waits for 100 Continue; none of its body is here
	Empty    bool // with More: there is nothing but empty lines, which begin no request
	Bodiless bool // the method is HEAD: no answer to the request has a body (RFC 9112, 6.3)
	Need     int  // with More: bytes that must be there before another look can find more; always more than were shown
}

// Request looks once at a request: see Scanner.Look.
func Request(b []byte, avail int, limits Limits) Seen {
	var s Scanner
	return s.Look(b, avail, limits)
}

// Scanner looks at one request that may arrive in many parts. It remembers where it was, so that it
// reads each byte once, however often it looks. The zero value is ready to look at a request.
type Scanner struct {
	head     head
	step     step
	start    int   // where the request line begins, behind empty lines
	at       int   // where the line begins, or the chunk ends, that is looked at next
	searched int   // no line end was found before this index
	data     int64 // bytes in the chunks so far
	read     int   // bytes that were read in all
	shown    int   // bytes that the next look must show again at least: what is here points into them
	bodiless bool
}

// step is what a Scanner looks for next.
type step uint8

const (
	stepStart     step = iota // the first byte of the request line
	stepHead                  // a line of the head
	stepBody                  // a body, or none
	stepChunkSize             // the line with the size of a chunk
	stepChunkEnd              // the line end behind the data of a chunk
	stepTrailers              // a line behind the last chunk
)

// Look looks at b, the first bytes of a connection's receive queue, of which there are avail (at
// least len(b)). The bytes that it was shown before should still be there. If some are missing, it
// begins again; if others have taken their place, it may misjudge the request, and nothing worse. If
// it answers More with Need at most avail, it has to be shown more of the bytes that are already
// there: all, or twice as many, rather than one more each time.
func (s *Scanner) Look(b []byte, avail int, limits Limits) Seen {
	if len(b) < s.shown {
		*s = Scanner{}
	}
	seen := s.look(b, avail, limits)
	seen.Bodiless = s.bodiless
	s.shown = min(s.Position(), len(b))
	return seen
}

// Position is how many bytes a look must be shown, and more, before it can find anything new.
func (s *Scanner) Position() int { return max(s.at, s.searched) }

func (s *Scanner) look(b []byte, avail int, limits Limits) Seen {
	if s.step == stepStart {
		if seen, begun := s.begin(b); !begun {
			return seen
		}
	}
	if s.step == stepHead {
		switch verdict := s.readHead(b, limits.Head); verdict {
		case HeadOnly:
			s.step = stepBody
		case More:
			return more(len(b) + 1)
		default:
			return refuse(verdict)
		}
	}
	return s.request(b, avail, limits)
}

// begin skips empty lines. It reports whether the first byte of a request line is there.
func (s *Scanner) begin(b []byte) (seen Seen, begun bool) {
	start := skipEmptyLines(b)
	switch {
	case start > MaxEmptyLines:
		return refuse(Malformed), false
	case start == len(b):
		return Seen{Verdict: More, Need: len(b) + 1, Empty: start > 0}, false
	case !token[b[start]]:
		return refuse(Malformed), false
	}
	s.step, s.start, s.at = stepHead, start, start
	return Seen{}, true
}

func more(need int) Seen { return Seen{Verdict: More, Need: need} }

func refuse(why Verdict) Seen { return Seen{Verdict: why} }

// skipEmptyLines counts them up to one byte too many.
func skipEmptyLines(b []byte) int {
	i := 0
	for i < len(b) && i <= MaxEmptyLines && (b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// line takes the next line of b. It is false if the end of the line has not arrived. A lone LF ends
// a line as well (section 2.2), but not for all parsers: strict is true for CRLF.
func (s *Scanner) line(b []byte) (line []byte, strict, ok bool) {
	from := max(s.at, s.searched)
	if from > len(b) {
		return nil, false, false
	}
	i := bytes.IndexByte(b[from:], '\n')
	if i < 0 {
		s.read += len(b) - from
		s.searched = len(b)
		return nil, false, false
	}
	s.read += i + 1
	line = b[s.at : from+i]
	s.at = from + i + 1
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1], true, true
	}
	return line, false, true
}

// dirty finds the bytes at which a parser may stop, break the line or go on: a CR that ends no line, and NUL.
func dirty(line []byte) bool {
	return bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0
}
