package manager

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Answer is what the sidecar says itself with a status. The zero value is a line of plain text.
type Answer struct {
	Body        string // at most MaxAnswerBody; empty: a line with the status
	ContentType string // default: text/plain; charset=utf-8
	Headers     []Header
	RetryAfter  int // seconds; 0: 1 with 429 and 503, none with the others
}

// Header is a field of an Answer beside those that every answer has.
type Header struct{ Name, Value string }

// Answers are by status: one of AnswerStatuses.
type Answers map[int]Answer

// What an Answer may have: all of it must fit in the socket's buffer at once.
const (
	MaxAnswerBody    = 8 << 10 // bytes
	MaxAnswerHeaders = 2 << 10 // bytes of names and values together
	MaxRetryAfter    = 7 * 24 * 3600
)

var answerStatuses = []int{400, 408, 413, 429, 431, 502, 503, 504}

// AnswerStatuses lists the statuses that the sidecar answers with.
func AnswerStatuses() []int { return slices.Clone(answerStatuses) }

// framing are the fields that are not anybody's to choose.
var framing = []string{"connection", "content-length", "content-type", "date", "keep-alive", "retry-after", "te", "trailer", "transfer-encoding", "upgrade"}

// Check reports everything that is wrong, or nil.
func (a Answers) Check() error {
	var errs []error
	for _, status := range statuses(a) {
		if err := a[status].check(status); err != nil {
			errs = append(errs, fmt.Errorf("%d: %w", status, err))
		}
	}
	return errors.Join(errs...)
}

func statuses(a Answers) (all []int) {
	for status := range a {
		all = append(all, status)
	}
	slices.Sort(all)
	return all
}

func (a Answer) check(status int) error {
	size := len(a.ContentType)
	for _, h := range a.Headers {
		size += len(h.Name) + len(h.Value)
		if err := h.check(); err != nil {
			return err
		}
	}
	switch {
	case !slices.Contains(answerStatuses, status):
		return fmt.Errorf("the sidecar has no such answer; give one of %s", strings.Trim(fmt.Sprint(answerStatuses), "[]"))
	case len(a.Body) > MaxAnswerBody:
		return fmt.Errorf("the body has %d bytes, give at most %d", len(a.Body), MaxAnswerBody)
	case size > MaxAnswerHeaders:
		return fmt.Errorf("the headers have %d bytes, give at most %d", size, MaxAnswerHeaders)
	case !fieldValue(a.ContentType):
		return fmt.Errorf("%q is not a content type; give one such as text/html; charset=utf-8", a.ContentType)
	case a.RetryAfter < 0 || a.RetryAfter > MaxRetryAfter:
		return fmt.Errorf("%d is out of range for retry-after, give 1 to %d seconds", a.RetryAfter, MaxRetryAfter)
	}
	return nil
}

func (h Header) check() error {
	switch {
	case !token(h.Name):
		return fmt.Errorf("%q is not the name of a header", h.Name)
	case slices.Contains(framing, strings.ToLower(h.Name)):
		return fmt.Errorf("%s is the sidecar's to say; leave it out", h.Name)
	case !fieldValue(h.Value):
		return fmt.Errorf("%q is not a value for %s; give visible characters", h.Value, h.Name)
	}
	return nil
}

// token: RFC 9110, section 5.6.2.
func token(s string) bool {
	const others = "!#$%&'*+-.^_`|~"
	not := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(others, c)
	}
	return s != "" && !strings.ContainsFunc(s, not)
}

// fieldValue: section 5.5, without bytes beyond ASCII.
func fieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return (c < ' ' || c > '~') && c != '\t' })
}

// response is an HTTP/1.1 response by the sidecar (RFC 9110), and the end of the connection. One to a HEAD
// is bodiless: it has the fields of the same response to a GET, its Content-Length included (RFC
// 9110, 8.6).
func (a Answers) response(status int, bodiless bool, now time.Time) []byte {
	given := a[status]
	body, kind := given.Body, given.ContentType
	if body == "" {
		body = fmt.Sprintf("%d %s\n", status, http.StatusText(status))
	}
	if kind == "" {
		kind = "text/plain; charset=utf-8"
	}
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\nConnection: close\r\n",
		status, http.StatusText(status), now.UTC().Format(http.TimeFormat), kind)
	if after := given.retryAfter(status); after > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", after)
	}
	for _, h := range given.Headers {
		b = fmt.Appendf(b, "%s: %s\r\n", h.Name, h.Value)
	}
	b = fmt.Appendf(b, "Content-Length: %d\r\n\r\n", len(body))
	if bodiless {
		return b
	}
	return append(b, body...)
}

func (a Answer) retryAfter(status int) int {
	if a.RetryAfter == 0 && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) {
		return 1
	}
	return a.RetryAfter
}
