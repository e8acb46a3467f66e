package sidecar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anteroom-io/anteroom/manager"
)

const someAnswers = `
400: {}
429:
  content-type: application/json
  body: '{"busy": true}'
  headers: {X-B: c, X-A: b}
503:
  file: FILE
  retry-after: 10
`

// The same mapping may stand in the configuration, in a file of its own, or in a variable.
func TestAnswersComeFromEverywhere(t *testing.T) {
	dir := t.TempDir()
	body, own := filepath.Join(dir, "busy.html"), filepath.Join(dir, "answers.yaml")
	text := strings.ReplaceAll(someAnswers, "FILE", body)
	for path, content := range map[string]string{body: "<p>Busy.", own: text} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := manager.Answers{
		400: {},
		429: {Body: `{"busy": true}`, ContentType: "application/json", Headers: []manager.Header{{Name: "X-A", Value: "b"}, {Name: "X-B", Value: "c"}}},
		503: {Body: "<p>Busy.", RetryAfter: 10},
	}
	for name, given := range map[string]struct {
		variables map[string]string
		file      string
	}{
		"the configuration": {nil, "answers:" + strings.ReplaceAll(text, "\n", "\n  ") + "\n"},
		"a file of its own": {nil, "answers: " + own + "\n"},
		"a variable":        {map[string]string{"ANTEROOM_ANSWERS": text}, ""},
	} {
		c, choices, err := load(t, nil, given.variables, given.file)
		if diff := cmp.Diff(want, c.Answers); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		for _, choice := range choices {
			if choice.Key == "answers" && choice.Value != "400 429 503" {
				t.Errorf("%s: shown as %q", name, choice.Value)
			}
		}
	}
}

func TestMistakesInAnswers(t *testing.T) {
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, make([]byte, manager.MaxAnswerBody+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for given, complaint := range map[string]string{
		"/nowhere/answers.yaml":                         "give the path of a readable file",
		"{503: {bdy: x}}":                               "is not a mapping from statuses",
		"{busy: {body: x}}":                             "is not a mapping from statuses",
		"{200: {body: x}}":                              "the sidecar has no such answer",
		"{503: {body: x, file: y}}":                     "leave one of them out",
		"{503: {file: /nowhere/busy.html}}":             "give a readable file",
		"{503: {file: " + long + "}}":                   "is longer than 8192 bytes",
		"{503: {headers: {Content-Length: 3}}}":         "is the sidecar's to say",
		"{503: {headers: {A: \"b\\r\\nC: d\"}}}":        "is not a value for A",
		"{503: {retry-after: -1}, 429: {retry-after: x": "is not a mapping",
	} {
		_, _, err := load(t, []string{"--answers=" + given}, nil, "")
		if err == nil || !strings.Contains(err.Error(), complaint) || !strings.Contains(err.Error(), "answers: ") {
			t.Errorf("%s: %v, want %q", given, err, complaint)
		}
	}
}
