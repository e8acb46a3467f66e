package scan

import "bytes"

// crlf ends every line of a chunked body, and the data of every chunk.
const crlf = "\r\n"

// chunks walks a chunked body (section 7.1), as strict as the strictest parser. Anything but CRLF at the end of a line is Opaque: there some
// stop and some see another end.
func (h *head) chunks(b []byte, limits Limits) Seen {
	data := int64(0)
	for at := h.end; ; {
		line, n, strict := cut(b[at:])
		if n == 0 {
			return h.moreChunks(b, at, limits)
		}
		size, ok := chunkSize(line)
		at += n
		data += size
		switch {
		case !ok || !strict:
			return Seen{Verdict: Opaque}
		case size == 0:
			return h.trailers(b, at, limits)
		case limits.Body > 0 && data > limits.Body:
			return refuse(BodyTooLong)
		case size > int64(limits.Wait):
			return h.only()
		}
		at += int(size)
		switch {
		case !continues(b, at, crlf):
			return Seen{Verdict: Opaque}
		case at+len(crlf) > len(b):
			return h.moreChunks(b, at, limits)
		}
		at += len(crlf)
	}
}

// moreChunks waits for a byte that is not in b, at index at or behind it, unless that is more than is waited for.
func (h *head) moreChunks(b []byte, at int, limits Limits) Seen {
	need := max(at, len(b)) + 1
	if need-h.end > limits.Wait {
		return h.only()
	}
	return more(need)
}

// trailers end at an empty line. The fields are the host's to read.
func (h *head) trailers(b []byte, at int, limits Limits) Seen {
	for {
		line, n, strict := cut(b[at:])
		switch {
		case n == 0:
			return h.moreChunks(b, at, limits)
		case !strict || dirty(line):
			return Seen{Verdict: Opaque}
		case len(line) == 0:
			return h.whole(at + n)
		}
		at += n
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
