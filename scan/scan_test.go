package scan

import (
	"strings"
	"testing"
)

// usual are limits that no case of the tables runs into unless it says so.
var usual = Limits{Head: 64 << 10, Wait: 64 << 10, Body: 1 << 20}

// look shows Request all that has arrived.
func look(input string, limits Limits) Seen {
	return Request([]byte(input), len(input), limits)
}

type lookCase struct {
	name  string
	input string
	want  Seen
}

func runLooks(t *testing.T, limits Limits, cases []lookCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := look(c.input, limits); got != c.want {
				t.Errorf("%.200q (%d bytes)\n got %+v\nwant %+v", c.input, len(c.input), got, c.want)
			}
		})
	}
}

func whole(head, body int) Seen { return Seen{Verdict: Whole, Head: head, Total: head + body} }

// empty is what is seen of empty lines.
func empty(need int) Seen { return Seen{Verdict: More, Need: need, Empty: true} }

func headOnly(head int) Seen { return Seen{Verdict: HeadOnly, Head: head} }

var (
	opaque    = Seen{Verdict: Opaque}
	malformed = Seen{Verdict: Malformed}
)

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

func TestHead(t *testing.T) {
	runLooks(t, usual, []lookCase{
		{"nothing", "", more(1)},
		{"first byte", "G", more(2)},
		{"request line", "GET / HTTP/1.1\r\n", more(17)},
		{"empty line without LF", get[:len(get)-1], more(len(get))},
		{"complete", get, whole(len(get), 0)},
		{"no fields", "GET / HTTP/1.1\r\n\r\n", whole(18, 0)},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", whole(18, 0)},
		{"absolute form", "GET http://a.example/b?c HTTP/1.1\r\nHost: a\r\n\r\n", whole(46, 0)},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n\r\n", whole(22, 0)},
		{"unknown method", "M-SEARCH * HTTP/1.1\r\n\r\n", whole(23, 0)},
		{"empty value", "GET / HTTP/1.1\r\nA:\r\n\r\n", whole(22, 0)},
		{"bytes above ASCII in a value", "GET / HTTP/1.1\r\nA: \xff\xfe\r\n\r\n", whole(25, 0)},
		{"a second request behind it", get + get, whole(len(get), 0)},
		{"half a second request behind it", get + "POST /", whole(len(get), 0)},
		{"a second that is malformed", get + "\x00", whole(len(get), 0)},
	})
}

func TestEmptyLines(t *testing.T) {
	runLooks(t, usual, []lookCase{
		{"one", "\r\n" + get, whole(len(get)+2, 0)},
		{"one and no more", "\r\n", empty(3)},
		{"half of one", "\r", empty(2)},
		{"LF alone", "\n\n" + get, whole(len(get)+2, 0)},
		{"as many as may be", strings.Repeat("\r\n", MaxEmptyLines/2) + get, whole(len(get)+MaxEmptyLines, 0)},
		{"as many as may be and no more", strings.Repeat("\r\n", MaxEmptyLines/2), empty(MaxEmptyLines + 1)},
		{"one byte too many", strings.Repeat("\r\n", MaxEmptyLines/2) + "\r", malformed},
		{"for ever", strings.Repeat("\r\n", 100_000), malformed},
		{"the body's length counts from behind them", "\r\nPUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", whole(39, 2)},
	})
}

func TestRequestLine(t *testing.T) {
	runLooks(t, usual, []lookCase{
		{"HTTP/0.9", "GET /\r\n", malformed},
		{"HTTP/0.9, bare LF", "GET /\n", malformed},
		{"lower-case name", "GET / http/1.1\r\n", malformed},
		{"tabs", "GET\t/\tHTTP/1.1\r\n", malformed},
		{"other protocol, a line", "EHLO a.example\r\n", malformed},
		{"other protocol, no line yet", "SSH-2.0-", more(9)},
		{"PROXY line", "PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n" + get, malformed},
		{"PROXY version 2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", malformed},
		{"TLS", "\x16", malformed},
		{"space first", " GET / HTTP/1.1\r\n\r\n", malformed},
		{"NUL first", "\x00", malformed},
		{"byte above ASCII first", "\x80", malformed},
		{"bare CR", "GET /\rHTTP/1.1 HTTP/1.1\r\n", malformed},
		{"two CR", "GET / HTTP/1.1\r\r\n", malformed},
		{"NUL", "GET /\x00 HTTP/1.1\r\n", malformed},

		{"HTTP/2 preface, the line", "PRI * HTTP/2.0\r\n", more(17)},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", opaque},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n\r\n", opaque},
		{"HTTP/1.10", "GET / HTTP/1.10\r\n\r\n", opaque},
		{"space behind", "GET / HTTP/1.1 \r\n\r\n", opaque},
		{"space behind, its head is waited for", "GET / HTTP/1.1 \r\nA: b\r\n", more(24)},
		{"space in the target", "GET /a b HTTP/1.1\r\n\r\n", opaque},
		{"two versions", "GET /a HTTP/1.0 HTTP/1.1\r\n\r\n", opaque},
		{"two spaces", "GET  / HTTP/1.1\r\n\r\n", opaque},
		{"no target", "GET HTTP/1.1\r\n\r\n", opaque},
	})
}

func TestFieldLines(t *testing.T) {
	const start, end = "POST / HTTP/1.1\r\n", "\r\n\r\n"
	runLooks(t, usual, []lookCase{
		{"space before colon", start + "A : b\r\n", malformed},
		{"tab before colon", start + "A\t: b\r\n", malformed},
		{"two words before space and colon", start + "A b : c\r\n", malformed},
		{"space before colon of a length", start + "Content-Length : 5\r\n", malformed},
		{"NUL in value", start + "A: b\x00c\r\n", malformed},
		{"NUL in name", start + "A\x00: b\r\n", malformed},
		{"bare CR in value", start + "A: b\rc: d\r\n", malformed},
		{"bare CR at the end", start + "A: b\r\r\n", malformed},
		{"bare CR for an empty line", start + "\r\r\n", malformed},
		{"bare CR before a name", start + "A: b\r\n\rc: d\r\n", malformed},

		{"folded", start + "A: b\r\n c" + end, opaque},
		{"folded with a tab", start + "A: b\r\n\tc" + end, opaque},
		{"folded, not at its end", start + "A: b\r\n c\r\n", more(28)},
		{"folded first line", start + " A: b" + end, opaque},
		{"folded length", start + "A: b\r\n Content-Length: 5" + end, opaque},
		{"folded, space before colon", start + "A: b\r\n c : d" + end, opaque},
		{"line of spaces", start + "A: b\r\n  \r\n" + end, opaque},
		{"no colon", start + "A" + end, opaque},
		{"no name", start + ": b" + end, opaque},
		{"two words for a name", start + "A b: c" + end, opaque},
		{"vertical tab in a name", start + "Content-Length\v: 5" + end, opaque},
		{"byte above ASCII in a name", start + "Content-L\xc3\xa9ngth: 5" + end, opaque},

		{"bare LF throughout", "GET / HTTP/1.1\nHost: a\n\n", opaque},
		{"bare LF, one", start + "A: b\nC: d" + end, opaque},
		{"bare LF for the empty line", start + "A: b\r\n\n", opaque},
		{"bare LF, not at its end", "GET / HTTP/1.1\nHost: a\n", more(24)},
	})
}

func TestContentLength(t *testing.T) {
	const start, end = "POST / HTTP/1.1\r\n", "\r\n\r\n"
	length := func(values ...string) string { // with five bytes of body
		return start + "Content-Length:" + strings.Join(values, "\r\nContent-Length:") + end + "hello"
	}
	runLooks(t, usual, []lookCase{
		{"all there", length("5"), whole(37, 5)},
		{"more than all", length("5") + get, whole(37, 5)},
		{"one byte less", length("6"), more(43)},
		{"none of it", start + "Content-Length: 5" + end, more(43)},
		{"zero", length("0"), whole(37, 0)},
		{"zeros before", length("0005"), whole(40, 5)},
		{"spaces and tabs around", length(" \t5 \t"), whole(41, 5)},
		{"any case", start + "cOnTeNt-LeNgTh: 5" + end + "hello", whole(38, 5)},
		{"for GET", "GET / HTTP/1.1\r\nContent-Length: 5" + end + "hel", more(42)},
		{"HTTP/1.0", "POST / HTTP/1.0\r\nContent-Length: 5" + end + "hel", more(43)},
		{"twice the same", length("5", " 5"), whole(56, 5)},
		{"twice, the same number", length("5", "05"), whole(56, 5)},
		{"twice, differing", length("5", "6"), malformed},
		{"thrice, the last differing", length("5", "5", "0"), malformed},
		{"differing, then a coding", start + "Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked" + end, malformed},
		{"list", length("5, 5"), malformed},
		{"list, differing", length("5,6"), malformed},
		{"empty", length(""), malformed},
		{"spaces", length("  "), malformed},
		{"plus", length("+5"), malformed},
		{"minus", length("-5"), malformed},
		{"minus zero", length("-0"), malformed},
		{"hexadecimal", length("0x5"), malformed},
		{"hexadecimal digit", length("a"), malformed},
		{"fraction", length("5.0"), malformed},
		{"exponent", length("5e0"), malformed},
		{"underscore", length("5_0"), malformed},
		{"inner space", length("5 0"), malformed},
		{"quoted", length(`"5"`), malformed},
		{"other digits", length("\u0665"), malformed},
		{"vertical tab", length("5\v"), malformed},
		{"beyond 2^53", length("9007199254740993"), malformed},
		{"2^64 and five", length("18446744073709551621"), malformed},
		{"a thousand digits", length(strings.Repeat("9", 1000)), malformed},
		{"another field", start + "Content_Length: 5" + end, whole(38, 0)},
		{"longer than any", length("1048577"), refuse(BodyTooLong)},
		{"longer than waited for", length("65537"), headOnly(41)},
		{"as long as waited for", length("65536"), more(41 + 65536)},
	})
}

func TestTransferEncoding(t *testing.T) {
	const start, end, body = "POST / HTTP/1.1\r\n", "\r\n\r\n", "0\r\n\r\n"
	coding := func(values ...string) string {
		return start + "Transfer-Encoding:" + strings.Join(values, "\r\nTransfer-Encoding:") + end + body
	}
	runLooks(t, usual, []lookCase{
		{"chunked", coding("chunked"), whole(46, 5)},
		{"spaces and tabs around", coding(" \tchunked\t "), whole(50, 5)},
		{"any case", start + "tRANSFER-eNCODING: CHunked" + end + body, whole(47, 5)},
		{"twice in a list", coding("chunked, chunked"), opaque},
		{"twice in two", coding("chunked", "chunked"), opaque},
		{"behind another", coding("gzip, chunked"), opaque},
		{"behind another in two", coding("gzip", "chunked"), opaque},
		{"before another", coding("chunked, gzip"), opaque},
		{"before another in two", coding("chunked", "identity"), opaque},
		{"identity", coding("identity"), opaque},
		{"identity behind", coding("chunked, identity"), opaque},
		{"unknown", coding("xchunked"), opaque},
		{"unknown, longer", coding("chunkedx"), opaque},
		{"cut", coding("chunk"), opaque},
		{"empty", coding(""), opaque},
		{"empty list elements", coding(",chunked,"), opaque},
		{"quoted", coding(`"chunked"`), opaque},
		{"parameter", coding("chunked;a=b"), opaque},
		{"vertical tab before", coding("\vchunked"), opaque},
		{"form feed behind", coding("chunked\f"), opaque},
		{"no-break space before", coding("\xa0chunked"), opaque},
		{"folded", coding("\r\n chunked"), opaque},
		{"folded behind", coding("chunked\r\n "), opaque},
		{"NUL behind", coding("chunked\x00"), malformed},
		{"bare CR behind", coding("chunked\r"), malformed},
		{"space before colon", start + "Transfer-Encoding : chunked" + end + body, malformed},
		{"both lengths", start + "Content-Length: 5\r\nTransfer-Encoding: chunked" + end + body, opaque},
		{"both lengths, turned", start + "Transfer-Encoding: chunked\r\nContent-Length: 5" + end + body, opaque},
		{"both lengths, three", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5" + end + body, opaque},
		{"both lengths, zero", start + "Content-Length: 0\r\nTransfer-Encoding: chunked" + end + body, opaque},
		{"both lengths, one malformed", start + "Transfer-Encoding: chunked\r\nContent-Length: x" + end + body, malformed},
		{"HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked" + end + body, opaque},
		{"other field", start + "Content-Encoding: chunked" + end + body, whole(46, 0)},
		{"the name as a value", start + "A: Transfer-Encoding: chunked" + end + body, whole(50, 0)},
	})
}

func TestChunks(t *testing.T) {
	const start = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" // 47 bytes
	runLooks(t, usual, []lookCase{
		{"none yet", start, more(48)},
		{"none", start + "0\r\n\r\n", whole(47, 5)},
		{"one", start + "5\r\nhello\r\n0\r\n\r\n", whole(47, 15)},
		{"two, and a request", start + "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n" + get, whole(47, 21)},
		{"hexadecimal", start + "00aF\r\n" + strings.Repeat("x", 0xaf) + "\r\n0\r\n\r\n", whole(47, 6+0xaf+7)},
		{"line ends as data", start + "4\r\n\r\n\r\n\r\n0\r\n\r\n", whole(47, 14)},
		{"many zeros", start + "00000000000000000000\r\n\r\n", whole(47, 24)},

		{"half a size", start + "5", more(49)},
		{"size without LF", start + "5\r", more(50)},
		{"size alone", start + "5\r\n", more(47 + 3 + 5 + 1)},
		{"half the data", start + "5\r\nhel", more(47 + 3 + 5 + 1)},
		{"data without line end", start + "5\r\nhello", more(47 + 3 + 5 + 1)},
		{"data with half a line end", start + "5\r\nhello\r", more(47 + 3 + 5 + 2)},
		{"data", start + "5\r\nhello\r\n", more(47 + 3 + 5 + 2 + 1)},
		{"last chunk alone", start + "0\r\n", more(51)},
		{"last chunk, half an empty line", start + "0\r\n\r", more(52)},

		{"extension", start + "5;a=b\r\nhello\r\n0;c\r\n\r\n", whole(47, 21)},
		{"spaces around the extension's semicolon", start + "5 ; a=\"b\"\r\nhello\r\n0\r\n\r\n", whole(47, 23)},
		{"extension with bare CR", start + "5;a\rb\r\nhello\r\n0\r\n\r\n", opaque},
		{"extension with NUL", start + "5;a\x00\r\nhello\r\n0\r\n\r\n", opaque},
		{"extension with bare LF", start + "5;a\nhello\r\n0\r\n\r\n", opaque},
		{"extension only", start + ";a\r\n\r\n", opaque},
		{"endless extension", start + "5;" + strings.Repeat("a", 64<<10), headOnly(47)},

		{"no size", start + "\r\n", opaque},
		{"plus", start + "+5\r\n", opaque},
		{"minus", start + "-5\r\n", opaque},
		{"prefix", start + "0x5\r\n", opaque},
		{"space before", start + " 5\r\n", opaque},
		{"space within", start + "0 5\r\n", opaque},
		{"underscore", start + "1_0\r\n", opaque},
		{"no digit", start + "g\r\n", opaque},
		{"vertical tab behind", start + "5\v\r\n", opaque},
		{"bare LF behind size", start + "5\nhello\r\n0\r\n\r\n", opaque},
		{"bare LF behind data", start + "5\r\nhello\n0\r\n\r\n", opaque},
		{"two CR behind size", start + "5\r\r\nhello\r\n0\r\n\r\n", opaque},
		{"nothing behind data", start + "5\r\nhello0\r\n\r\n", opaque},
		{"data longer than its size", start + "5\r\nhello!\r\n0\r\n\r\n", opaque},
		{"data shorter than its size", start + "5\r\nhell\r\n0\r\n\r\n", opaque},
		{"bare LF behind the last", start + "0\n\n", opaque},

		{"longer than waited for", start + "10001\r\n", headOnly(47)},
		{"longer than waited for in the end", start + "fffe\r\n", headOnly(47)},
		{"longer than any", start + "100001\r\n", refuse(BodyTooLong)},
		{"2^32 and two", start + "100000002\r\n", refuse(BodyTooLong)},
		{"2^63", start + "8000000000000000\r\n", opaque},
		{"2^64", start + "10000000000000000\r\n", opaque},
		{"a thousand digits", start + strings.Repeat("f", 1000) + "\r\n", opaque},

		{"trailer", start + "0\r\nA: b\r\n\r\n", whole(47, 11)},
		{"two trailers", start + "0\r\nA: b\r\nC: d\r\n\r\n" + get, whole(47, 17)},
		{"half a trailer", start + "0\r\nA: b", more(55)},
		{"trailer, no end", start + "0\r\nA: b\r\n", more(57)},
		{"trailer with bare LF", start + "0\r\nA: b\n\r\n", opaque},
		{"trailer with bare CR", start + "0\r\nA: b\rc\r\n\r\n", opaque},
		{"trailer with NUL", start + "0\r\nA: \x00\r\n\r\n", opaque},
		{"bare LF for the empty line", start + "0\r\n\n", opaque},
		{"endless trailers", start + "0\r\n" + strings.Repeat("A: b\r\n", 11_000), headOnly(47)},
	})
}

func TestConnectUpgradeExpect(t *testing.T) {
	const length = "Content-Length: 5\r\n"
	runLooks(t, usual, []lookCase{
		{"CONNECT", "CONNECT a:443 HTTP/1.1\r\n\r\n\x16\x03", whole(26, 0)},
		{"CONNECT with a length, its body there", "CONNECT a:443 HTTP/1.1\r\n" + length + "\r\nhello", headOnly(45)},
		{"CONNECT with a length", "CONNECT a:443 HTTP/1.1\r\n" + length + "\r\n", headOnly(45)},
		{"CONNECT with chunks", "CONNECT a:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", headOnly(54)},
		{"connect is another method", "connect a:443 HTTP/1.1\r\n" + length + "\r\n", more(50)},
		{"upgrade", "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\x80", whole(38, 0)},
		{"upgrade with a body", "POST / HTTP/1.1\r\nUpgrade: h2c\r\n" + length + "\r\nhe", more(57)},
		{"upgrade with its body there", "POST / HTTP/1.1\r\nUpgrade: h2c\r\n" + length + "\r\nhello", whole(52, 5)},

		{"expect", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\n" + length + "\r\n", headOnly(59)},
		{"expect, other case", "PUT / HTTP/1.1\r\nEXPECT:100-CONTINUE\r\n" + length + "\r\n", headOnly(58)},
		{"expect, in a list", "PUT / HTTP/1.1\r\nExpect: a, 100-continue\r\n" + length + "\r\n", headOnly(62)},
		{"expect something else", "PUT / HTTP/1.1\r\nExpect: a\r\n" + length + "\r\nhe", headOnly(48)},
		{"expect, chunked", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", headOnly(68)},
		{"expect, but all there", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\n" + length + "\r\nhello", whole(59, 5)},
		{"expect, no body", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", whole(40, 0)},
		{"expect, too long", "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1048577\r\n\r\n", refuse(BodyTooLong)},
		{"expect, HTTP/1.0", "PUT / HTTP/1.0\r\nExpect: 100-continue\r\n" + length + "\r\nhe", more(64)},
	})
}

func TestLimits(t *testing.T) {
	const chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" // 47 bytes
	line := "GET / HTTP/1.1\r\nA: " + strings.Repeat("x", 64<<10)
	for _, c := range []struct {
		name   string
		limits Limits
		input  string
		want   Seen
	}{
		{"none: head of any length", Limits{}, line + "\r\n\r\n", whole(len(line)+4, 0)},
		{"none: not at its end", Limits{}, line, more(len(line) + 1)},
		{"none: no body is waited for", Limits{}, "POST / HTTP/1.1\r\nContent-Length: 9000000000000000\r\n\r\n", headOnly(53)},
		{"none: a body that is there", Limits{}, "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", whole(38, 1)},
		{"none: no chunk is waited for", Limits{}, chunks, headOnly(47)},
		{"none: chunks that are there", Limits{}, chunks + "0\r\n\r\n", whole(47, 5)},

		{"head as long as may be", Limits{Head: len(get)}, get, whole(len(get), 0)},
		{"head one byte longer", Limits{Head: len(get) - 1}, get, refuse(HeadTooLong)},
		{"head one byte longer, still coming", Limits{Head: len(get) - 1}, get[:len(get)-1], refuse(HeadTooLong)},
		{"head two bytes from the limit", Limits{Head: len(get)}, get[:len(get)-2], more(len(get) - 1)},
		{"64 kB line", usual, line + "\r\n\r\n", refuse(HeadTooLong)},
		{"64 kB request line", usual, "GET /" + line, refuse(HeadTooLong)},
		{"64 kB of no line", usual, strings.Repeat("x", 64<<10), refuse(HeadTooLong)},
		{"empty lines before do not count", Limits{Head: len(get)}, "\r\n" + get, whole(len(get)+2, 0)},
		{"body behind does not count", Limits{Head: len(get)}, get + get, whole(len(get), 0)},
		{"malformed before the limit", Limits{Head: 20}, "GET / HTTP/1.1\r\n\x00\r\n" + line, malformed},
		{"malformed beyond the limit", Limits{Head: 20}, "GET / HTTP/1.1\r\nAbcd: \x00\r\n", refuse(HeadTooLong)},

		{"body as long as any", Limits{Body: 5}, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", headOnly(38)},
		{"body longer, but there", Limits{Body: 4}, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", refuse(BodyTooLong)},
		{"body longer than waited for, but there", Limits{Wait: 4}, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", whole(38, 5)},
		{"chunks in all longer than any", Limits{Body: 4, Wait: 99}, chunks + "2\r\nab\r\n3\r\n", refuse(BodyTooLong)},
		{"chunks as long as any", Limits{Body: 5, Wait: 99}, chunks + "2\r\nab\r\n3\r\n", more(47 + 7 + 6 + 1)},
		{"chunks as long as waited for", Limits{Wait: 6}, chunks + "2\r\n", more(47 + 6)},
		{"chunks longer than waited for", Limits{Wait: 5}, chunks + "2\r\n", headOnly(47)},
		{"chunks longer than waited for, but there", Limits{Wait: 11}, chunks + "2\r\nab\r\n0\r\n\r\n", whole(47, 12)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := look(c.input, c.limits); got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// TestShownLess shows less than has arrived: the answer asks for what is there already, or does without.
func TestShownLess(t *testing.T) {
	const chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name  string
		input string
		shown int
		want  Seen
	}{
		{"nothing", get, 0, more(1)},
		{"half a head", get, 10, more(11)},
		{"empty lines", "\r\n" + get, 2, empty(3)},
		{"head, not the body", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 38, whole(38, 5)},
		{"head, not the body, not all there", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhell", 38, more(43)},
		{"head, not the chunks", chunks + "0\r\n\r\n", 47, more(48)},
		{"size, not the data", chunks + "5\r\nhello\r\n0\r\n\r\n", 50, more(56)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Request([]byte(c.input)[:c.shown], len(c.input), usual); got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestVerdictString(t *testing.T) {
	seen := map[string]bool{}
	for v := More; v <= Malformed; v++ {
		if s := v.String(); s == "" || seen[s] {
			t.Errorf("verdict %d is called %q", v, s)
		}
		seen[v.String()] = true
	}
}

// Whoever looks says 100 Continue itself, if nothing else is expected and nothing of the body is here.
func TestExpectIsAnswered(t *testing.T) {
	const expect, length = "PUT / HTTP/1.1\r\nExpect: 100-continue\r\n", "Content-Length: 5\r\n"
	asks := func(need int) Seen { return Seen{Verdict: More, Need: need, Expects: true} }
	limits := usual
	limits.Expect = true
	runLooks(t, limits, []lookCase{
		{"a length", expect + length + "\r\n", asks(64)},
		{"chunks", expect + "Transfer-Encoding: chunked\r\n\r\n", asks(69)},
		{"other case", "PUT / HTTP/1.1\r\nEXPECT:\t100-CONTINUE \r\n" + length + "\r\n", asks(65)},
		{"the body has begun", expect + length + "\r\nhe", more(64)},
		{"the body is there", expect + length + "\r\nhello", whole(59, 5)},
		{"no body", expect + "\r\n", whole(40, 0)},
		{"the head is not there", expect + length, more(58)},
		{"a list", "PUT / HTTP/1.1\r\nExpect: a, 100-continue\r\n" + length + "\r\n", headOnly(62)},
		{"twice", expect + "Expect: 100-continue\r\n" + length + "\r\n", headOnly(81)},
		{"something else", "PUT / HTTP/1.1\r\nExpect: a\r\n" + length + "\r\n", headOnly(48)},
		{"too long to wait for", expect + "Content-Length: 65537\r\n\r\n", headOnly(63)},
		{"too long", expect + "Content-Length: 1048577\r\n\r\n", refuse(BodyTooLong)},
		{"HTTP/1.0", "PUT / HTTP/1.0\r\nExpect: 100-continue\r\n" + length + "\r\n", more(64)},
	})
}

// TestBodiless: the method is known whatever comes of the request, and wherever it begins.
func TestBodiless(t *testing.T) {
	limits := usual
	limits.Head = 100
	for _, c := range []struct {
		name, input string
		verdict     Verdict
	}{
		{"whole", "HEAD / HTTP/1.1\r\n\r\n", Whole},
		{"half", "HEAD /", More},
		{"a body too long to wait for", "HEAD / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", HeadOnly},
		{"opaque", "HEAD / HTTP/1.1\n\n", Opaque},
		{"malformed", "HEAD / HTTP/1.1\r\nA : b\r\n\r\n", Malformed},
		{"a head too long", "HEAD / HTTP/1.1\r\nA: " + strings.Repeat("a", 100), HeadTooLong},
		{"a body too long", "HEAD / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", BodyTooLong},
	} {
		for _, before := range []string{"", "\r\n", "\n\r\n"} {
			if got := look(before+c.input, limits); got.Verdict != c.verdict || !got.Bodiless {
				t.Errorf("%s behind %q: %+v", c.name, before, got)
			}
		}
		if got := look("G"+c.input[1:], limits); got.Bodiless {
			t.Errorf("%s, of another method: %+v", c.name, got)
		}
	}
}
