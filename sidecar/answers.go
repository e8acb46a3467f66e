package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-io/anteroom/manager"
)

// answerText is an answer as people write it.
type answerText struct {
	Body        string            `yaml:"body"`
	File        string            `yaml:"file"` // that has the body
	ContentType string            `yaml:"content-type"`
	Headers     map[string]string `yaml:"headers"`
	RetryAfter  int               `yaml:"retry-after"` // seconds
}

// readAnswers reads a mapping from statuses to answers: YAML if it looks like a mapping, else the path of a file with it.
func readAnswers(v string) (manager.Answers, error) {
	text := []byte(v)
	if !strings.ContainsAny(v, "\n{") {
		var err error
		if text, err = os.ReadFile(v); err != nil {
			return nil, fmt.Errorf("cannot be read; give the path of a readable file: %w", err)
		}
	}
	var given map[int]answerText
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&given); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("is not a mapping from statuses to answers with body or file, content-type, headers, retry-after: %w", err)
	}
	answers := manager.Answers{}
	var errs []error
	for status, a := range given {
		var err error
		if answers[status], err = a.answer(); err != nil {
			errs = append(errs, fmt.Errorf("%d: %w", status, err))
		}
	}
	return answers, errors.Join(errs...)
}

func (a answerText) answer() (manager.Answer, error) {
	answer := manager.Answer{Body: a.Body, ContentType: a.ContentType, RetryAfter: a.RetryAfter}
	for name, value := range a.Headers {
		answer.Headers = append(answer.Headers, manager.Header{Name: name, Value: value})
	}
	slices.SortFunc(answer.Headers, func(a, b manager.Header) int { return strings.Compare(a.Name, b.Name) })
	switch {
	case a.File == "":
		return answer, nil
	case a.Body != "":
		return answer, errors.New("there are a body and a file; leave one of them out")
	}
	body, err := readBody(a.File)
	answer.Body = body
	return answer, err
}

// readBody reads no more than it takes to see that a file is too long.
func readBody(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the body cannot be read; give a readable file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	body, err := io.ReadAll(io.LimitReader(f, manager.MaxAnswerBody+1))
	if len(body) > manager.MaxAnswerBody {
		return "", fmt.Errorf("%s is longer than %d bytes; give a shorter one", path, manager.MaxAnswerBody)
	}
	return string(body), err
}

// showAnswers names the statuses whose answers are configured.
func showAnswers(a manager.Answers) string {
	var all []int
	for status := range a {
		all = append(all, status)
	}
	slices.Sort(all)
	return joined(all)
}
