package scan

import (
	"fmt"
	"strings"
	"testing"
)

// The disguises below are those that are publicly known to part one parser from another: where one sees "chunked", another sees a length or
// nothing. Whoever is right, a worker must neither be given a length that its parser does not see, nor be kept from its request.

// disguise is a head line or two, meant to be taken for "Transfer-Encoding: chunked" by some and not by others.
type disguise struct {
	name, lines string
}

func disguises() []disguise {
	list := []disguise{
		{"plain", "Transfer-Encoding: chunked"},
		{"no space", "Transfer-Encoding:chunked"},
		{"two spaces", "Transfer-Encoding:  chunked"},
		{"tab", "Transfer-Encoding:\tchunked"},
		{"tab behind", "Transfer-Encoding: chunked\t"},
		{"tabs and colon", "Transfer-Encoding\t:\tchunked"},
		{"space before colon", "Transfer-Encoding : chunked"},
		{"folded line as a field", "A: b\r\n Transfer-Encoding: chunked"},
		{"folded value", "Transfer-Encoding:\r\n chunked"},
		{"folded value, bare LF", "Transfer-Encoding:\n chunked"},
		{"folded colon", "Transfer-Encoding\r\n : chunked"},
		{"folded into another coding", "Transfer-Encoding: chunked\r\n , identity"},
		{"bare LF hides a field", "A: b\nTransfer-Encoding: chunked"},
		{"bare CR hides a field", "A: b\rTransfer-Encoding: chunked"},
		{"NUL hides a field", "A: b\x00Transfer-Encoding: chunked"},
		{"bare CR in the name", "Transfer\r-Encoding: chunked"},
		{"bare CR behind", "Transfer-Encoding: chunked\r"},
		{"mixed case", "TrAnSfEr-eNcOdInG: cHuNkEd"},
		{"list, unknown behind", "Transfer-Encoding: chunked, cow"},
		{"list, unknown before", "Transfer-Encoding: cow, chunked"},
		{"two fields, unknown first", "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked"},
		{"two fields, unknown last", "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"},
		{"two fields, cases differ", "Transfer-Encoding: identity\r\ntransfer-encoding: chunked"},
		{"three words", "Transfer-Encoding: cow chunked bar"},
		{"in double quotes", `Transfer-Encoding: "chunked"`},
		{"in single quotes", "Transfer-Encoding: 'chunked'"},
		{"cut short", "Transfer-Encoding: chunk"},
		{"parameter", "Transfer-Encoding: chunked;q=1"},
		{"comma before", "Transfer-Encoding: ,chunked"},
		{"comma behind", "Transfer-Encoding: chunked,"},
		{"empty", "Transfer-Encoding:"},
		{"accent in the value", "Transfer-Encoding: ch\x96nked"},
		{"accent in the name", "Transf\x82r-Encoding: chunked"},
		{"Kelvin sign in the value", "Transfer-Encoding: chun\u212aed"},
		{"long s in the name", "Tran\u017ffer-Encoding: chunked"},
		{"space for the hyphen", "Transfer Encoding: chunked"},
		{"colon before", ":Transfer-Encoding: chunked"},
		{"two colons", "Transfer-Encoding:: chunked"},
	}
	for c := 1; c < 256; c++ {
		if c > ' ' && c < 0x7f {
			continue // printable: another word, and no disguise
		}
		list = append(list,
			disguise{fmt.Sprintf("%#x before the value", c), fmt.Sprintf("Transfer-Encoding:%schunked", []byte{byte(c)})},
			disguise{fmt.Sprintf("%#x behind the value", c), fmt.Sprintf("Transfer-Encoding: chunked%s", []byte{byte(c)})},
			disguise{fmt.Sprintf("%#x before the name", c), fmt.Sprintf("%sTransfer-Encoding: chunked", []byte{byte(c)})},
			disguise{fmt.Sprintf("%#x behind the name", c), fmt.Sprintf("Transfer-Encoding%s: chunked", []byte{byte(c)})},
		)
	}
	return list
}

// TestDisguisedCodingBesideLength: with a length in the same head, the two readings have different ends. None may be claimed.
func TestDisguisedCodingBesideLength(t *testing.T) {
	for _, d := range disguises() {
		for _, lines := range []string{d.lines + "\r\nContent-Length: 6", "Content-Length: 6\r\n" + d.lines} {
			input := "POST / HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n\r\n0\r\n\r\nG"
			if got := look(input, usual); got != opaque && got != malformed {
				t.Errorf("%s: %q is %+v", d.name, lines, got)
			}
		}
	}
}

// TestDisguisedCodingAlone: some see chunks, some see no body. Only what all take for chunks is waited for.
func TestDisguisedCodingAlone(t *testing.T) {
	for _, d := range disguises() {
		head := "POST / HTTP/1.1\r\nHost: a\r\n" + d.lines + "\r\n\r\n"
		got := look(head+"0\r\n\r\n"+get, usual)
		name, value, _ := strings.Cut(d.lines, ":")
		plain := asciiLower(name) == "transfer-encoding" && asciiLower(strings.Trim(value, " \t")) == "chunked"
		switch {
		case plain && got != whole(len(head), 5):
			t.Errorf("%s: %q is %+v, want the chunks", d.name, d.lines, got)
		case !plain && got != opaque && got != malformed:
			t.Errorf("%s: %q is %+v", d.name, d.lines, got)
		}
	}
}

// asciiLower leaves the long s and the Kelvin sign alone.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// TestDisguisedLength does the same to a length.
func TestDisguisedLength(t *testing.T) {
	for c := range 256 {
		if c > ' ' && c < 0x7f || c == '\t' || c == ' ' {
			continue
		}
		for _, line := range []string{
			fmt.Sprintf("Content-Length:%s5", []byte{byte(c)}),
			fmt.Sprintf("Content-Length: 5%s", []byte{byte(c)}),
			fmt.Sprintf("%sContent-Length: 5", []byte{byte(c)}),
			fmt.Sprintf("Content-Length%s: 5", []byte{byte(c)}),
			fmt.Sprintf("Content%sLength: 5", []byte{byte(c)}),
		} {
			input := "POST / HTTP/1.1\r\nHost: a\r\n" + line + "\r\n\r\nhello"
			if got := look(input, usual); got != opaque && got != malformed {
				t.Errorf("%q is %+v", line, got)
			}
		}
	}
}

// TestChunkDisguises: what ends a chunk line, or a chunk, for one parser and not for another.
func TestChunkDisguises(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{
		"line end in the extension is LF":        "2;\nxx\r\n0\r\n\r\n",
		"line end in the extension is CR":        "2;\rxx\r\n0\r\n\r\n",
		"line end in the extension is CR and CR": "2;\r\rxx\r\n0\r\n\r\n",
		"line end in a quoted extension":         "2;a=\"\n\"\r\nxx\r\n0\r\n\r\n",
		"data spills over":                       "2\r\nxxx\r\n0\r\n\r\n",
		"data ends in two other bytes":           "2\r\nxxyy0\r\n\r\n",
		"data ends in CR and a byte":             "2\r\nxx\ry0\r\n\r\n",
		"data ends in LF and CR":                 "2\r\nxx\n\r0\r\n\r\n",
		"size wraps at 64 bits":                  "10000000000000002\r\nxx\r\n0\r\n\r\n",
		"size with a sign":                       "-1\r\nxx\r\n0\r\n\r\n",
		"size with a tab before":                 "\t2\r\nxx\r\n0\r\n\r\n",
		"size in other digits":                   "\u0662\r\nxx\r\n0\r\n\r\n",
		"size and a word":                        "2 x\r\nxx\r\n0\r\n\r\n",
		"size and a comma":                       "2,2\r\nxx\r\n0\r\n\r\n",
		"last chunk with a sign":                 "-0\r\n\r\n",
		"trailer folded by CR":                   "0\r\nA: b\r\rG: c\r\n\r\n",
		"trailer section ends in CR":             "0\r\n\r\r\n\r\n",
	} {
		if got := look(head+body, usual); got != opaque {
			t.Errorf("%s: %q is %+v", name, body, got)
		}
	}
}
