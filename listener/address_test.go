package listener

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	tests := map[string]Address{
		"tcp://127.0.0.1:8080":          {Network: TCP, Host: netip.MustParseAddr("127.0.0.1"), Port: 8080},
		"tcp://0.0.0.0:0":               {Network: TCP, Host: netip.IPv4Unspecified()},
		"tcp://[::1]:8080":              {Network: TCP, Host: netip.IPv6Loopback(), Port: 8080},
		"tcp://[::]:65535":              {Network: TCP, Host: netip.IPv6Unspecified(), Port: 65535},
		"tcp://[fe80::1%eth0]:1":        {Network: TCP, Host: netip.MustParseAddr("fe80::1%eth0"), Port: 1},
		"tcp://:8080":                   {Network: TCP, Port: 8080},
		"unix:///run/app.sock":          {Network: Unix, Path: "/run/app.sock"},
		"unix:///run/with space:8.sock": {Network: Unix, Path: "/run/with space:8.sock"},
		"unix://@app":                   {Network: Unix, Path: "@app"},
		"unix://@/run/app":              {Network: Unix, Path: "@/run/app"},
		"fd://3":                        {Network: FD, Name: "3"},
		"fd://http":                     {Network: FD, Name: "http"},
	}
	for text, want := range tests {
		got := must(ParseAddress(text))(t)
		if got != want {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
		if got.String() != text {
			t.Errorf("%s comes back as %s", text, got)
		}
	}
}

func TestParseAddressUnmapsIPv4(t *testing.T) {
	if got := must(ParseAddress("tcp://[::ffff:127.0.0.1]:80"))(t).String(); got != "tcp://127.0.0.1:80" {
		t.Errorf("comes back as %s", got)
	}
}

func TestParseAddressSaysWhatWouldBeRight(t *testing.T) {
	tests := map[string]string{ // text -> what the error must contain
		"":                                    "write tcp://127.0.0.1:8080, unix:///run/app.sock or fd://3",
		"8080":                                "write tcp://127.0.0.1:8080",
		"127.0.0.1:8080":                      "write tcp://127.0.0.1:8080",
		":8080":                               "write tcp://:8080",
		"/run/app.sock":                       "write unix:///run/app.sock",
		"@app":                                "write unix://@app",
		"unix:/run/app.sock":                  "write unix:///run/app.sock",
		"http://127.0.0.1:8080/":              "write tcp://127.0.0.1:8080",
		"tcp4://127.0.0.1:8080":               "write tcp://127.0.0.1:8080",
		"udp://127.0.0.1:8080":                "it is tcp, unix or fd",
		"tcp://127.0.0.1":                     "write tcp://127.0.0.1:8080",
		"tcp://[::1]":                         "write tcp://[::1]:8080",
		"tcp://":                              "there is no port",
		"tcp://127.0.0.1:":                    "no number from 0 to 65535",
		"tcp://127.0.0.1:65536":               "no number from 0 to 65535",
		"tcp://127.0.0.1:-1":                  "no number from 0 to 65535",
		"tcp://127.0.0.1:+1":                  "no number from 0 to 65535",
		"tcp://127.0.0.1:http":                "no number from 0 to 65535",
		"tcp://127.0.0.1:8080/":               "nothing may follow it",
		"tcp://localhost:8080":                "write tcp://127.0.0.1:8080 or tcp://[::1]:8080",
		"tcp://example.org:80":                "names are not looked up",
		"tcp://*:8080":                        "write tcp://:8080",
		"tcp://::1:8080":                      "write tcp://[::1]:8080",
		"tcp://[127.0.0.1]:80":                "write tcp://127.0.0.1:80",
		"tcp://[::1:80":                       "write tcp://",
		"unix://":                             "there is no path",
		"unix://@":                            "there is no path",
		"unix://run/app.sock":                 "write unix:///run/app.sock",
		"unix:///run/":                        "a directory's",
		"unix:///run/a\x00b":                  "NUL",
		"unix:///" + strings.Repeat("x", 107): "has 108 bytes, the kernel allows 107",
		"fd://":                               "write fd://3",
		"fd://a:b":                            "write fd://3",
		"fd://a b":                            "write fd://3",
	}
	for text, want := range tests {
		a, err := ParseAddress(text)
		if err == nil {
			t.Errorf("%q was accepted as %s", text, a)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %q, it should say %q", text, err, want)
		}
	}
}

// What is accepted comes back from its own text unchanged.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"tcp://127.0.0.1:8080", "tcp://[fe80::1%eth0]:1", "tcp://:0", "unix:///x", "unix://@x", "fd://3", "tcp://[::", "://"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			return
		}
		if again := must(ParseAddress(a.String()))(t); again != a {
			t.Errorf("%q is %+v, and its text %q is %+v", text, a, a.String(), again)
		}
	})
}

// What the error of an address proposes is an address.
func TestWhatAnErrorProposesIsAnAddress(t *testing.T) {
	proposal := regexp.MustCompile(`(?:write|or|,) ((?:tcp|unix|fd)://[^ ,]+)`)
	hosts := []string{"", "x", "localhost", "127.0.0.1", "[::1]", "::1", "[::1", "*", "fe80::1%eth0", "1.2.3.4.5", "a b", "./run/x", "run/x", "/run/x/", "@app", "@", "/"}
	for _, scheme := range []string{"", "tcp:", "unix:", "fd:", "http://", "tcp4://", "TCP://", "UNIX://", "ftp://", "tcp://", "unix://", "fd://"} {
		for _, host := range hosts {
			for _, port := range []string{"", ":", ":80", ":http", ":99999", "/x"} {
				text := scheme + host + port
				_, err := ParseAddress(text)
				if err == nil {
					continue
				}
				_, advice, _ := strings.Cut(err.Error(), text+`": `)
				for _, found := range proposal.FindAllStringSubmatch(advice, -1) {
					if _, err := ParseAddress(found[1]); err != nil {
						t.Errorf("%q: it proposes %s: %v", text, found[1], err)
					}
				}
			}
		}
	}
}
