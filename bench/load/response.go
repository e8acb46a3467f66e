package main

import (
	"bytes"
	"errors"
	"strconv"
)

// response follows one response: its head, then as many bytes of body as the head announces. The zero value waits for a head.
type response struct {
	head []byte // the beginning of a head whose end has not come
	body int    // bytes still to come, once the head is there
	open bool   // the head is there
}

var errBadResponse = errors.New("a response that is not 200 with a Content-Length")

var (
	endOfHead     = []byte("\r\n\r\n")
	statusOK      = []byte("HTTP/1.1 200")
	contentLength = []byte("content-length:")
)

// take reads on. done says that the response is complete.
func (r *response) take(p []byte) (done bool, err error) {
	if !r.open {
		if p, err = r.takeHead(p); err != nil || !r.open {
			return false, err
		}
	}
	r.body -= len(p)
	if r.body < 0 {
		return false, errors.New("a response longer than its Content-Length")
	}
	if r.body == 0 {
		*r = response{head: r.head[:0]}
		return true, nil
	}
	return false, nil
}

// takeHead returns what follows the head, once it is whole.
func (r *response) takeHead(p []byte) ([]byte, error) {
	r.head = append(r.head, p...)
	end := bytes.Index(r.head, endOfHead)
	if end < 0 {
		return nil, nil
	}
	length, ok := lengthIn(r.head[:end+2])
	if !ok {
		return nil, errBadResponse
	}
	r.body, r.open = length, true
	return r.head[end+len(endOfHead):], nil
}

func lengthIn(head []byte) (int, bool) {
	if !bytes.HasPrefix(head, statusOK) {
		return 0, false
	}
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\r\n"))
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):])))
			return n, err == nil && n >= 0
		}
		head = rest
	}
	return 0, false
}
