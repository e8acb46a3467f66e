package scan

import (
	"strings"
	"testing"
)

// What the manager pays at each look, by what is looked at.
var costs = []struct {
	name  string
	input string
}{
	{"curl", "GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"},
	{"browser", "GET /articles/2024/07/a-page?ref=front HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml\r\n" +
		"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://www.example.com/\r\n" +
		"Cookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"},
	{"form", "POST /form HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 11\r\n\r\nhello=world"},
	{"chunks", "POST /upload HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n" +
		strings.Repeat("400\r\n"+strings.Repeat("x", 1024)+"\r\n", 16) + "0\r\n\r\n"},
	{"long line", "GET / HTTP/1.1\r\nCookie: " + strings.Repeat("x", 16<<10) + "\r\n\r\n"},
}

func TestLookAllocatesNothing(t *testing.T) {
	inputs := []string{"", "GET", "\x16", "GET / HTTP/1.1\r\nA : b\r\n", "GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"}
	for _, c := range costs {
		inputs = append(inputs, c.input)
	}
	for _, input := range inputs {
		b := []byte(input)
		if n := testing.AllocsPerRun(100, func() { Request(b, len(b), usual) }); n != 0 {
			t.Errorf("%.40q: %v allocations", input, n)
		}
	}
}

// TestEachByteIsReadOnce: heads and bodies of very many parts, with a look after each byte.
func TestEachByteIsReadOnce(t *testing.T) {
	for name, input := range map[string]string{
		"tiny fields": "GET / HTTP/1.1\r\n" + strings.Repeat("a:\r\n", 5000) + "\r\n",
		"one field":   "GET / HTTP/1.1\r\na: " + strings.Repeat("x", 20000) + "\r\n\r\n",
		"tiny chunks": "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 3000) + "0\r\n\r\n",
		"one size":    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("x", 20000) + "\r\nhello\r\n0\r\n\r\n",
		"trailers":    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("a:\r\n", 5000) + "\r\n",
	} {
		var s Scanner
		for there := range len(input) {
			if seen := s.Look([]byte(input[:there]), there, usual); seen.Verdict != More {
				t.Fatalf("%s, %d bytes: %+v", name, there, seen)
			}
		}
		if seen := s.Look([]byte(input), len(input), usual); seen.Total != len(input) || s.read > len(input) {
			t.Errorf("%s: %+v, %d bytes were read of %d", name, seen, s.read, len(input))
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			input := []byte(c.input)
			b.SetBytes(int64(len(input)))
			for b.Loop() {
				if Request(input, len(input), usual).Verdict != Whole {
					b.Fatal("not whole")
				}
			}
		})
	}
}
