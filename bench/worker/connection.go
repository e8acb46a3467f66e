package main

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// connection is a client's socket while it is served, or kept.
type connection struct {
	fd   int
	head []byte // the beginning of a request whose end has not come
	rest []byte // what is still to be sent of the response; it aliases an answer
	size int    // of all of the response
	last bool   // this response ends the connection

	armed uint32 // what the loop watches for

	// With a sidecar only.
	id     uint64
	seq    uint32
	leased bool
}

// progress is how far a connection's request has come.
type progress int

const (
	served    progress = iota // the response is in the kernel
	wantRead                  // the request has not all come
	wantWrite                 // the client must take some of the response first
	gone                      // the client hung up, or sent what this worker does not serve
)

// maxHead bounds a request's head.
const maxHead = 16 << 10

// serve goes on with a connection's request as far as it can without blocking. buf is what it reads into.
func (c *connection) serve(buf []byte) progress {
	if len(c.rest) > 0 {
		return c.write()
	}
	n, errno := read(c.fd, buf)
	switch {
	case errno == unix.EAGAIN:
		return wantRead
	case errno != 0 || n == 0:
		return gone
	}
	request := buf[:n]
	if len(c.head) > 0 {
		c.head = append(c.head, request...)
		request = c.head
	}
	return c.answer(request)
}

// answer sends the response once the head is whole. Requests with a body, and requests sent before the last one's answer, are no part
// of the benchmark.
func (c *connection) answer(request []byte) progress {
	end := bytes.Index(request, headEnd)
	switch {
	case end < 0 && len(request) < maxHead:
		c.keepHead(request)
		return wantRead
	case end != len(request)-len(headEnd):
		return gone
	}
	response, last, ok := answerTo(request, c.last)
	if !ok {
		return gone
	}
	c.head, c.rest, c.size, c.last = c.head[:0], response, len(response), last
	return c.write()
}

func (c *connection) keepHead(request []byte) {
	if len(c.head) == 0 {
		c.head = append(c.head, request...)
	}
}

func (c *connection) write() progress {
	for len(c.rest) > 0 {
		n, errno := write(c.fd, c.rest)
		switch {
		case errno == unix.EAGAIN:
			return wantWrite
		case errno != 0:
			return gone
		}
		c.rest = c.rest[n:]
	}
	c.rest = nil
	return served
}
