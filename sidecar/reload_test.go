package sidecar

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/spf13/pflag"
)

// A successor after a death gets the very configuration of its predecessor: every setting comes
// back from the text as it was.
func TestSettingsSurviveTheirText(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	Flags(flags)
	if err := flags.Parse([]string{
		"--listen", "tcp://127.0.0.1:0?pool=web&name=public&ready=head&expect=answer&proxy=10.0.0.0/8", "--listen", "tcp://:81", "--listen", "fd://http",
		"--handoff", "@hand", "--handoff-mode", "0666", "--handoff-allow-uid", "33,34", "--control", "none", "--control-allow-gid", "7",
		"--metrics", "tcp://[::1]:9464", "--client-exempt", "192.0.2.0/24,2001:db8::/32", "--supervise", "--log-level", "warn", "--log-format", "json",
		"--answers", `{503: {body: "wait", content-type: text/plain, headers: {X-A: b}, retry-after: 3}}`, "--drain-timeout", "7s",
		"--max-hosts", "9", "--keep-alive-limit", "9", "--lease-warn", "off", "--max-body", "17", "--ping-timeout", "1s",
	}); err != nil {
		t.Fatal(err)
	}
	want, _, err := Load(flags, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		field := reflect.TypeFor[Config]().Field(i)
		if v := reflect.ValueOf(want).Field(i); field.Tag.Get("json") != "-" && v.IsZero() && !leftOut[field.Name] {
			t.Errorf("%s has its zero value here, which shows nothing", field.Name)
		}
	}
}

// leftOut are settings that contradict others of the test, or are no settings.
var leftOut = map[string]bool{"Control": true, "ControlMode": true, "ControlTCP": true, "Version": true, "Args": true}

func TestDifferences(t *testing.T) {
	before := []Choice{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "gone", Value: "3"}}
	now := []Choice{{Key: "a", Value: "1", Origin: "elsewhere"}, {Key: "b", Value: "4"}, {Key: "new", Value: "5"}}
	if got := differences(before, now); !reflect.DeepEqual(got, []Change{{"b", "2", "4"}}) {
		t.Errorf("%v", got)
	}
}
