package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// load reads a configuration from flags, variables and the text of a file ("": none).
func load(t *testing.T, flags []string, variables map[string]string, file string) (Config, []Choice, error) {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(set)
	if file != "" {
		path := filepath.Join(t.TempDir(), "anteroom.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--config", path)
	}
	if err := set.Parse(flags); err != nil {
		t.Fatal(err)
	}
	return Load(set, func(name string) string { return variables[name] })
}

func subnet(t *testing.T, text string) listener.Subnet {
	t.Helper()
	s, err := listener.ParseSubnet(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parsed(t *testing.T, address string) listener.Address {
	t.Helper()
	a, err := listener.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sameConfig(want, got Config) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(listener.Address{}, listener.Subnet{}), cmpopts.IgnoreFields(Config{}, "Logger", "OnReady", "Abort"))
}

func TestNothingGivenIsTheZeroConfig(t *testing.T) {
	got, choices, err := load(t, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := sameConfig(Config{}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, c := range choices {
		if c.Origin != "default" {
			t.Errorf("%s is %q, from %s", c.Key, c.Value, c.Origin)
		}
	}
}

// all is a value for every setting, and what they make together.
var all = map[string]string{
	"listen": "tcp://127.0.0.1:80?pool=web&name=public&ready=head&expect=answer&proxy=192.0.2.7,unix:///run/app.sock", "handoff": "/run/h.sock", "handoff-mode": "0666",
	"handoff-allow-uid": "1000, 1001", "handoff-allow-gid": "33", "control": "unix:///run/c.sock", "control-mode": "0660",
	"control-allow-uid": "4", "control-allow-gid": "5,6", "metrics": "tcp://127.0.0.1:9464", "log-level": "debug", "supervise": "true", "log-format": "json",
	"drain-timeout": "5s", "max-connections": "1", "keep-alive-limit": "2", "max-queue": "3", "max-hosts": "4", "max-listeners": "5",
	"max-redeliveries": "6", "keep-alive-timeout": "7s", "first-byte-timeout": "8s", "queue-timeout": "9s", "lease-timeout": "10s", "linger-timeout": "11s",
	"max-head": "1000", "wait-body": "1001", "max-body": "1002", "min-rate": "1003", "request-timeout": "12s", "send-timeout": "13s",
	"client-exempt": "192.0.2.0/24, 2001:db8::1", "answers": "{503: {body: busy, retry-after: 9}}", "max-newcomers": "14", "max-client-connections": "15",
	"client-rate": "16", "client-burst": "17", "max-clients": "18", "max-requests": "19", "min-idle": "20s", "max-age": "21s", "lease-warn": "off",
	"ping-interval": "22s", "ping-timeout": "23s", "hang-timeout": "24s", "max-calls": "25", "max-adopted": "26", "max-host-adopted": "27",
	"max-finishing": "28", "max-host-finishing": "29", "max-helpers": "30",
}

func wantAll(t *testing.T) Config {
	t.Helper()
	return Config{
		Listen: []Listen{
			{Address: parsed(t, "tcp://127.0.0.1:80"), Pool: "web", Name: "public", Ready: "head", Expect: "answer", Proxies: []listener.Subnet{subnet(t, "192.0.2.7/32")}},
			{Address: parsed(t, "unix:///run/app.sock")},
		},
		Handoff: parsed(t, "unix:///run/h.sock"), HandoffMode: 0o666, HandoffAllow: Peers{UIDs: []uint32{1000, 1001}, GIDs: []uint32{33}},
		Control: parsed(t, "unix:///run/c.sock"), ControlMode: 0o660, ControlAllow: Peers{UIDs: []uint32{4}, GIDs: []uint32{5, 6}},
		Metrics: parsed(t, "tcp://127.0.0.1:9464"), Supervise: true, LogLevel: "debug", LogFormat: "json", DrainTimeout: 5 * time.Second,
		Exempt:  []listener.Subnet{subnet(t, "192.0.2.0/24"), subnet(t, "2001:db8::1/128")},
		Answers: manager.Answers{503: {Body: "busy", RetryAfter: 9}},
		Limits: manager.Limits{
			Connections: 1, KeepAlive: 2, Queue: 3, Hosts: 4, Listeners: 5, Redeliveries: 6, KeepAliveTimeout: 7 * time.Second,
			FirstByteTimeout: 8 * time.Second, QueueTimeout: 9 * time.Second, LeaseTimeout: 10 * time.Second, LingerTimeout: 11 * time.Second,
			Head: 1000, WaitBody: 1001, Body: 1002, MinRate: 1003, RequestTimeout: 12 * time.Second, SendTimeout: 13 * time.Second,
			Newcomers: 14, ClientConnections: 15, ClientRate: 16, ClientBurst: 17, Clients: 18, Requests: 19, MinIdle: 20 * time.Second, Age: 21 * time.Second,
			LeaseWarn: manager.Off, PingInterval: 22 * time.Second, PingTimeout: 23 * time.Second, HangTimeout: 24 * time.Second,
			Calls: 25, Adopted: 26, HostAdopted: 27, Finishing: 28, HostFinishing: 29, Helpers: 30,
		},
	}
}

// tlsFiles are the settings that all leaves out: their files must exist.
var tlsFiles = []string{"control-tcp", "control-tcp-cert", "control-tcp-key", "control-tcp-client-ca"}

func TestEverySettingComesFromEverySource(t *testing.T) {
	for _, key := range keys() {
		if _, there := all[key]; !there && !slices.Contains(tlsFiles, key) {
			t.Errorf("this test has no value for %s", key)
		}
	}
	var flags []string
	var file strings.Builder
	variables := map[string]string{}
	for key, value := range all {
		flags = append(flags, "--"+key+"="+value)
		variables["ANTEROOM_"+strings.ToUpper(strings.ReplaceAll(key, "-", "_"))] = value
		fmt.Fprintf(&file, "%s: %s\n", key, value)
	}
	for _, source := range []struct {
		name      string
		flags     []string
		variables map[string]string
		file      string
	}{{"flags", flags, nil, ""}, {"variables", nil, variables, ""}, {"file", nil, nil, file.String()}} {
		t.Run(source.name, func(t *testing.T) {
			got, _, err := load(t, source.flags, source.variables, source.file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := sameConfig(wantAll(t), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlagsWinOverVariablesOverTheFile(t *testing.T) {
	got, choices, err := load(t,
		[]string{"--max-hosts=1", "--listen=tcp://127.0.0.1:1", "--listen=tcp://127.0.0.1:2"},
		map[string]string{"ANTEROOM_MAX_HOSTS": "2", "ANTEROOM_MAX_QUEUE": "2", "ANTEROOM_LISTEN": "tcp://127.0.0.1:3", "ANTEROOM_LOG_LEVEL": ""},
		"max-hosts: 3\nmax-queue: 3\nmax-listeners: 3\nlog-level: warn\nlisten:\n  - tcp://127.0.0.1:4\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen:   []Listen{{Address: parsed(t, "tcp://127.0.0.1:1")}, {Address: parsed(t, "tcp://127.0.0.1:2")}},
		Limits:   manager.Limits{Hosts: 1, Queue: 2, Listeners: 3},
		LogLevel: "warn",
	}
	if diff := sameConfig(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	origins := map[string]string{}
	for _, c := range choices {
		origins[c.Key] = c.Origin
	}
	for key, origin := range map[string]string{"max-hosts": "--max-hosts", "max-queue": "ANTEROOM_MAX_QUEUE", "max-listeners": "anteroom.yaml:3", "max-connections": "default"} {
		if !strings.HasSuffix(origins[key], origin) {
			t.Errorf("%s is from %s, want %s", key, origins[key], origin)
		}
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	_, _, err := load(t,
		[]string{"--log-level=warning", "--listen=nonsense,tcp://127.0.0.1:80?pol=x", "--handoff-mode=999", "--control-tcp=tcp://127.0.0.1:1"},
		map[string]string{"ANTEROOM_MAX_QUEUE": "many", "ANTEROOM_DRAIN_TIMEOUT": "9000h", "ANTEROOM_HANDOFF_ALLOW_UID": "root"},
		"listn: x\nmax-hosts: 0\nmax-listeners: 99999999\nkeep-alive-timeout: 75\nkeep-alive-timeout: 76s\nlog-format: [text, json]\nmetrics:\n")
	mistakes, ok := errors.AsType[Mistakes](err)
	if !ok {
		t.Fatalf("%v, want Mistakes", err)
	}
	want := map[string]string{ // by where it is, what the hint says
		"--log-level":                "trace, debug, info, warn",
		"--listen":                   "tcp://",
		"--handoff-mode":             "0660",
		"--control-tcp":              "control-tcp-cert, control-tcp-key, control-tcp-client-ca",
		"ANTEROOM_MAX_QUEUE":         "a whole number",
		"ANTEROOM_DRAIN_TIMEOUT":     "give 1ms to",
		"ANTEROOM_HANDOFF_ALLOW_UID": "id -u",
		"anteroom.yaml:1":            "did you mean listen?",
		"anteroom.yaml:2":            "0 is out of range, give 1 to 12288",
		"anteroom.yaml:3":            "give 1 to",
		"anteroom.yaml:4":            "a number with a unit",
		"anteroom.yaml:5":            "twice",
		"anteroom.yaml:6":            "takes one value",
		"anteroom.yaml:7":            "takes one value",
	}
	for origin, hint := range want {
		found := slices.ContainsFunc(mistakes, func(m Mistake) bool {
			return strings.HasSuffix(m.Origin, origin) && strings.Contains(m.Problem, hint) && m.Key != ""
		})
		if !found {
			t.Errorf("no mistake from %s with the hint %q", origin, hint)
		}
	}
	if len(mistakes) != len(want)+1 { // listen has two
		t.Errorf("%d mistakes, want %d", len(mistakes), len(want)+1)
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestFilesThatAreNone(t *testing.T) {
	for _, c := range []struct{ file, hint string }{
		{"- a\n- b\n", "not a mapping"},
		{"a: [\n", "not YAML"},
		{"max-hosts: 1\n---\nmax-hosts: 2\n", "more than one document"},
		{"listen: {address: x}\n", "a list of values"},
		{"listen: [[x]]\n", "a list of plain values"},
		{"handoff:\n  path: x\n", "takes one value"},
	} {
		if _, _, err := load(t, nil, nil, c.file); err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%q: %v, want %q", c.file, err, c.hint)
		}
	}
	if _, _, err := load(t, []string{"--config=/nowhere/at/all"}, nil, ""); !errors.Is(err, Mistakes(nil)) && err == nil {
		t.Error("a file that is not there was read")
	}
	if _, _, err := load(t, nil, nil, "# nothing yet\n"); err != nil {
		t.Errorf("a file of comments: %v", err)
	}
}

func TestCheckFindsWhatIsWrongTogether(t *testing.T) {
	tcp, unixSocket := parsed(t, "tcp://127.0.0.1:80"), parsed(t, "unix:///run/a.sock")
	for _, c := range []struct {
		name   string
		config Config
		key    string
	}{
		{"same address twice", Config{Listen: []Listen{{Address: tcp}, {Address: tcp, Pool: "web"}}}, "listen"},
		{"bad pool", Config{Listen: []Listen{{Address: tcp, Pool: "a b"}}}, "listen"},
		{"bad name", Config{Listen: []Listen{{Address: tcp, Name: strings.Repeat("x", 65)}}}, "listen"},
		{"bad readiness", Config{Listen: []Listen{{Address: tcp, Ready: "soon"}}}, "listen"},
		{"handoff over TCP", Config{Handoff: tcp}, "handoff"},
		{"control over TCP", Config{Control: tcp}, "control"},
		{"one socket for both", Config{Handoff: unixSocket, Control: unixSocket}, "control"},
		{"mode with more bits", Config{ControlMode: fs.ModeSetuid | 0o600}, "control-mode"},
		{"TLS files for nothing", Config{ControlTCP: ControlTCP{Cert: "x"}}, "control-tcp"},
		{"mutual TLS on a Unix socket", Config{ControlTCP: ControlTCP{Address: unixSocket}}, "control-tcp"},
		{"TLS files that are not there", Config{ControlTCP: ControlTCP{tcp, "/nowhere", "/nowhere", "/nowhere"}}, "control-tcp"},
		{"negative drain", Config{DrainTimeout: -1}, "drain-timeout"},
		{"unknown level", Config{LogLevel: "warning"}, "log-level"},
		{"unknown format", Config{LogFormat: "xml"}, "log-format"},
		{"limits", Config{Limits: manager.Limits{Hosts: -1}}, "max-hosts"},
	} {
		mistakes, _ := errors.AsType[Mistakes](c.config.Check())
		if len(mistakes) != 1 || mistakes[0].Key != c.key {
			t.Errorf("%s: %v, want one mistake about %s", c.name, mistakes, c.key)
		}
	}
	picked := Config{Listen: []Listen{{Address: parsed(t, "tcp://127.0.0.1:0")}, {Address: parsed(t, "tcp://127.0.0.1:0")}}}
	if err := picked.Check(); err != nil {
		t.Errorf("two ports that the kernel picks: %v", err)
	}
}

func TestListenSurvivesItsText(t *testing.T) {
	for _, text := range []string{"tcp://127.0.0.1:80", "tcp://[::1]:80?name=a&pool=b", "unix://@x?pool=p", "fd://http?name=h", "tcp://:80?ready=request", "tcp://:80?proxy=10.0.0.0/8&proxy=2001:db8::1/128"} {
		l, err := ParseListen(text)
		if err != nil || l.String() != text {
			t.Errorf("%q became %q (%v)", text, l, err)
		}
	}
	for _, text := range []string{"tcp://127.0.0.1:80?", "tcp://127.0.0.1:80?pool=", "tcp://127.0.0.1:80?pool=a&pool=b", "tcp://127.0.0.1:80?%zz", "tcp://:80?proxy=host"} {
		if l, err := ParseListen(text); err == nil && l.String() == text {
			t.Errorf("%q was read as %+v", text, l)
		}
	}
}

func TestNearestWord(t *testing.T) {
	words := []string{"listen", "log-level", "max-hosts"}
	for given, want := range map[string]string{"listn": "listen", "LOG_LEVEL": "log-level", "maxhosts": "max-hosts", "zzz": "", "": ""} {
		if got := nearest(given, words); got != want {
			t.Errorf("nearest to %q: %q, want %q", given, got, want)
		}
	}
}

// TestOffAndNoneMeanOneThing: off is no limit, none and 0 are nothing, in every limit; a word that a
// limit has no state for is a mistake, whatever it may have meant elsewhere.
func TestOffAndNoneMeanOneThing(t *testing.T) {
	for _, l := range limits {
		for _, word := range []string{"off", "none", "0"} {
			var values manager.Limits
			err := l.parse(&values, word)
			want := l.none
			if word == "off" {
				want = l.off
			}
			if got := l.at(&values).Int(); (err == nil) != (want != 0) || err == nil && got != want {
				t.Errorf("%s: %s is %d (%v), want %d", l.key, word, got, err, want)
			}
			if err == nil && word != "0" && l.show(&values) != word {
				t.Errorf("%s: %s is shown as %s", l.key, word, l.show(&values))
			}
		}
		if l.off != 0 && l.none != 0 {
			t.Errorf("%s: 0 in the contract could be either", l.key)
		}
	}
}

// TestNoneIsAValueOfEveryList: what is shown for an empty list can be given, and then is nothing.
func TestNoneIsAValueOfEveryList(t *testing.T) {
	for i := range settings {
		s := &settings[i]
		var c Config
		if !s.list {
			continue
		}
		if err := s.parse(&c, []string{"none"}); err != nil || s.show(&c) != "none" {
			t.Errorf("%s: none is %s (%v)", s.key, s.show(&c), err)
		}
	}
}
