package handoff

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// vector is a frame as fields and as bytes. 64-bit fields are strings, since JSON numbers are exact only below 2^53.
type vector struct {
	Name    string `json:"name"`
	Type    uint8  `json:"type"`
	Flags   uint8  `json:"flags"`
	Seq     uint32 `json:"seq"`
	Conn    uint64 `json:"conn,string"`
	A       uint64 `json:"a,string"`
	B       uint64 `json:"b,string"`
	Payload string `json:"payload"`
	Hex     string `json:"hex"`
}

func (v *vector) frame() Frame {
	return Frame{Type: Type(v.Type), Flags: Flags(v.Flags), Seq: v.Seq, Conn: v.Conn, A: v.A, B: v.B, Payload: []byte(v.Payload)}
}

func load[T any](t testing.TB, file string) []T {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var list []T
	if err := json.Unmarshal(data, &list); err != nil || len(list) == 0 {
		t.Fatalf("%s: %d entries, %v", file, len(list), err)
	}
	return list
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(a, b *Frame) bool {
	return a.Type == b.Type && a.Flags == b.Flags && a.Seq == b.Seq && a.Conn == b.Conn && a.A == b.A && a.B == b.B && bytes.Equal(a.Payload, b.Payload)
}

func TestVectors(t *testing.T) {
	for _, v := range load[vector](t, "frames.json") {
		t.Run(v.Name, func(t *testing.T) {
			want, raw := v.frame(), unhex(t, v.Hex)
			if got := want.Append(nil); !bytes.Equal(got, raw) {
				t.Errorf("encoded %x, want %x", got, raw)
			}
			var got Frame
			n, err := Decode(append(raw, 0xee, 0xee), &got) // bytes of the next frame must not matter
			if err != nil || n != len(raw) || !same(&got, &want) {
				t.Errorf("decoded %d bytes to %+v, %v; want %d, %+v", n, got, err, len(raw), want)
			}
			if n, err := Decode(raw[:len(raw)-1], &got); n != 0 || err != nil {
				t.Errorf("one byte short: %d, %v; want 0, nil", n, err)
			}
		})
	}
}

func TestIncompleteAndBadVectors(t *testing.T) {
	for _, v := range load[struct{ Name, Hex, Want string }](t, "incomplete_and_bad.json") {
		t.Run(v.Name, func(t *testing.T) {
			var f Frame
			n, err := Decode(unhex(t, v.Hex), &f)
			if n != 0 {
				t.Fatalf("took %d bytes", n)
			}
			if got := verdict(asFault(err)); got != v.Want {
				t.Errorf("got %s (%v), want %s", got, err, v.Want)
			}
		})
	}
}

func verdict(err error) string {
	var fault *Fault
	switch {
	case err == nil:
		return "more"
	case errors.As(err, &fault):
		return fault.Code.String()
	}
	return err.Error()
}

func TestSocketPath(t *testing.T) {
	for address, want := range map[string]string{
		"unix:///run/h.sock":   "/run/h.sock",
		"/run/h.sock":          "/run/h.sock",
		"h.sock":               "h.sock",
		"unix://h.sock":        "unix://h.sock",
		"/run/unix:///h.sock":  "/run/unix:///h.sock",
		"unix:///unix:///a":    "/unix:///a",
		"tcp:///run/h.sock":    "tcp:///run/h.sock",
		"unix:/run/other.sock": "unix:/run/other.sock",
	} {
		if got := SocketPath(address); got != want {
			t.Errorf("%q is the path of %q, want %q", got, address, want)
		}
	}
}

func TestHelloVectors(t *testing.T) {
	for _, v := range load[struct{ Name, Frame, Want string }](t, "hello.json") {
		t.Run(v.Name, func(t *testing.T) {
			var f Frame
			if _, err := Decode(unhex(t, v.Frame), &f); err != nil {
				t.Fatal(err)
			}
			h, fault := HelloOf(&f)
			got := "ok"
			if fault != nil {
				got = fault.Code.String()
			}
			if got != v.Want {
				t.Errorf("got %s (%v, %+v), want %s", got, fault, h, v.Want)
			}
		})
	}
}

func TestPayloadsComeBack(t *testing.T) {
	hello := Hello{Name: "a", Pool: "b", Capacity: 5, Features: []string{FeatureCache}, Agent: "test"}
	f := hello.Frame()
	got, fault := HelloOf(&f)
	if fault != nil || got.Name != "a" || got.Pool != "b" || got.Capacity != 5 || !got.Has(FeatureCache) || got.Has(FeatureFinish) {
		t.Errorf("hello: %+v, %v", got, fault)
	}
	listen := Listen{Name: "l", Silent: SilentLease, FirstByteTimeoutMS: 7, Backlog: 9}
	f = listen.Frame(3)
	if got, fault := ListenOf(&f); fault != nil || *got != listen || f.Seq != 3 || f.Flags != FlagFD {
		t.Errorf("listen: %+v, %v", got, fault)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = "tcp://127.0.0.1:8080"
	}
	f = Welcome{Host: 3, Listeners: many}.Frame()
	if w, err := WelcomeOf(&f); err != nil || w.Host != 3 || len(f.Payload) > MaxPayload || len(w.Listeners) < 100 {
		t.Errorf("welcome: %d bytes, %+v, %v", len(f.Payload), w, err)
	}
	f = Faultf(CodeAtLimit, "enough").Frame(TypeRefuse, 0)
	var fault2 *Fault
	if _, err := WelcomeOf(&f); !errors.As(err, &fault2) || fault2.Code != CodeAtLimit || fault2.Reason != "enough" {
		t.Errorf("refuse: %v", err)
	}
}

func TestListenRefusals(t *testing.T) {
	for _, payload := range []string{``, `{"silent":"shout"}`, `{"name":"a b"}`, `{"first_byte_timeout_ms":-1}`, `{"first_byte_timeout_ms":1e18}`} {
		if l, fault := ListenOf(&Frame{Type: TypeListen, Payload: []byte(payload)}); fault == nil || fault.Code != CodeBadPayload {
			t.Errorf("%q: %+v, %v", payload, l, fault)
		}
	}
}

func TestEveryTypeAndCodeHasAName(t *testing.T) {
	for c := CodeBadFrame; c <= CodeNotAgreed; c++ {
		if c.String() == "" {
			t.Errorf("code %d has no name", c)
		}
	}
	if s := Code(99).String(); s != "code 99" {
		t.Error(s)
	}
	if s := Type(0x70).String(); s != "type 0x70" {
		t.Error(s)
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range load[vector](f, "frames.json") {
		f.Add(unhex(f, v.Hex))
	}
	for _, v := range load[struct{ Hex string }](f, "incomplete_and_bad.json") {
		f.Add(unhex(f, v.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, again Frame
		n, err := Decode(b, &got)
		if err != nil || n == 0 {
			if n != 0 {
				t.Fatalf("took %d bytes with %v", n, err)
			}
			return
		}
		if out := got.Append(nil); !bytes.Equal(out, b[:n]) {
			t.Fatalf("decoded %x, encodes to %x", b[:n], out)
		}
		if m, err := Decode(b[:n], &again); m != n || err != nil || !same(&got, &again) {
			t.Fatalf("second decode: %d, %v", m, err)
		}
	})
}

func FuzzHello(f *testing.F) {
	for _, v := range load[struct{ Frame string }](f, "hello.json") {
		f.Add(unhex(f, v.Frame)[HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, fault := HelloOf(&Frame{Type: TypeHello, A: magic | Version<<32, Payload: payload})
		if fault == nil && (!ValidName(h.Name) || h.Capacity < 1 || h.Capacity > MaxCapacity) {
			t.Fatalf("accepted %+v", h)
		}
		if l, fault := ListenOf(&Frame{Type: TypeListen, Payload: payload}); fault == nil && l.FirstByteTimeoutMS < 0 {
			t.Fatalf("accepted %+v", l)
		}
	})
}
