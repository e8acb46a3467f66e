package scan

import "bytes"

// crlf ends every line of a chunked body, and the data of every chunk.
const crlf = "\r\n"

// chunks walks a chunked body (section 7.1), as strict as the strictest parser. Anything but CRLF
// at the end of a line is Opaque: there some stop and some see another end.
func (s *Scanner) chunks(b []byte, limits Limits) Seen {
	for s.step != stepTrailers {
		seen, goesOn := s.chunk(b, limits)
		if !goesOn {
			return seen
		}
	}
	return s.trailers(b, limits)
}

// chunk takes the next step. It reports whether there is another one to take.
func (s *Scanner) chunk(b []byte, limits Limits) (seen Seen, goesOn bool) {
	if s.step == stepChunkEnd {
		return s.chunkEnd(b, limits)
	}
	s.step = stepChunkSize
	line, strict, ok := s.line(b)
	if !ok {
		return s.moreChunks(b, limits), false
	}
	size, ok := chunkSize(line)
	s.data += size
	switch {
	case !ok || !strict:
		return Seen{Verdict: Opaque}, false
	case size == 0:
		s.step = stepTrailers
		return Seen{}, true
	case limits.Body > 0 && s.data > limits.Body:
		return refuse(BodyTooLong), false
	case size > int64(limits.Wait):
		return s.head.only(), false
	}
	s.at += int(size)
	s.step = stepChunkEnd
	return Seen{}, true
}

// chunkEnd takes the line end behind the data of a chunk.
func (s *Scanner) chunkEnd(b []byte, limits Limits) (seen Seen, goesOn bool) {
	switch {
	case !continues(b, s.at, crlf):
		return Seen{Verdict: Opaque}, false
	case s.at+len(crlf) > len(b):
		return s.moreChunks(b, limits), false
	}
	s.at += len(crlf)
	s.read += len(crlf)
	s.step = stepChunkSize
	return Seen{}, true
}

// moreChunks waits for a byte that is not in b, at or behind the place that is looked at next,
// unless that is more than is waited for.
func (s *Scanner) moreChunks(b []byte, limits Limits) Seen {
	need := max(s.at, len(b)) + 1
	if need-s.head.end > limits.Wait {
		return s.head.only()
	}
	return more(need)
}

// trailers end at an empty line. The fields are the host's to read.
func (s *Scanner) trailers(b []byte, limits Limits) Seen {
	for {
		line, strict, ok := s.line(b)
		switch {
		case !ok:
			return s.moreChunks(b, limits)
		case !strict || dirty(line):
			return Seen{Verdict: Opaque}
		case len(line) == 0:
			return s.head.whole(s.at)
		}
	}
}

// continues is false if b, as far as it goes, has something else than want at index at.
func continues(b []byte, at int, want string) bool {
	for i := range len(want) {
		if at+i < len(b) && b[at+i] != want[i] {
			return false
		}
	}
	return true
}

// chunkSize reads the hexadecimal size before any extension (7.1.1). Sizes beyond any body (2^52) are not ok.
func chunkSize(line []byte) (int64, bool) {
	digits, extension, _ := bytes.Cut(line, []byte{';'})
	digits = bytes.TrimRight(digits, " \t")
	n := int64(0)
	for _, c := range digits {
		digit := hexDigit(c)
		if digit < 0 || n >= 1<<48 {
			return 0, false
		}
		n = n<<4 | digit
	}
	return n, len(digits) > 0 && !dirty(extension)
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
