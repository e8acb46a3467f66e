package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/host"
)

// hostVariable makes this program a host of that name; the others say where.
const (
	hostVariable    = "CHAOS_HOST"
	handoffVariable = "CHAOS_HANDOFF"
	dirVariable     = "CHAOS_DIR"
)

const hostCapacity = 8

// beHost serves requests for numbers, until SIGTERM. It takes its leases by hand, so that it can write down what it is about to do before it does it.
func beHost() error {
	name, dir := os.Getenv(hostVariable), os.Getenv(dirVariable)
	journal, err := os.OpenFile(journalPath(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	h, err := host.Attach(ctx, host.Options{
		Path: os.Getenv(handoffVariable), Name: name, Pool: "default", Capacity: hostCapacity, Patience: time.Minute,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil && ctx.Err() != nil {
		return nil // it was asked to leave while it attached
	}
	if err != nil {
		return err
	}
	drained := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drained <- h.Drain(context.Background())
	}()
	for {
		lease, err := h.Next(context.Background()) // those that cross with the drain are served, too
		switch {
		case err == nil:
			go serve(lease, journal)
		case ctx.Err() != nil:
			return <-drained
		default:
			return err
		}
	}
}

// serve answers one request.
func serve(lease host.Lease, journal io.Writer) {
	err := answer(lease, journal)
	switch {
	case err == nil && !lease.Last:
		_ = lease.Put(0)
	case err == nil:
		_ = lease.Close(host.Done)
	default:
		_ = lease.Close(host.Client)
	}
}

// answer answers with the request's own number, and bytes that follow from it.
func answer(lease host.Lease, journal io.Writer) error {
	seq, err := peekNumber(lease.FD())
	if err != nil {
		return err
	}
	write := func(what string) { fmt.Fprintf(journal, "%s %d\n", what, seq) }
	write(lineRead)
	lease.SetReadDeadline(time.Now().Add(answerTime))
	r, err := http.ReadRequest(bufio.NewReader(lease))
	if err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, newChecker(r.Body, seq)); err != nil || n != r.ContentLength {
		return fmt.Errorf("the body is wrong: %d of %d bytes, %w", n, r.ContentLength, err)
	}
	pause, _ := strconv.Atoi(r.Header.Get("X-Pause"))
	time.Sleep(time.Duration(pause) * time.Millisecond)
	size, _ := strconv.Atoi(r.Header.Get("X-Size"))
	connection := "keep-alive"
	if lease.Last {
		connection = "close"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nX-Seq: %d\r\nX-Client: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n", seq, r.Header.Get("X-Client"), size, connection)
	b.Write(content(seq, size))
	write(lineBegun)
	lease.SetWriteDeadline(time.Now().Add(answerTime))
	_, err = lease.Write(b.Bytes())
	write(lineDone)
	return err
}

var errNoNumber = errors.New("no X-Seq in the head")

// peekNumber looks at the request's number without reading it.
func peekNumber(fd int) (uint64, error) {
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(b[:n], []byte("\r\nX-Seq: "))
	if !found {
		return 0, errNoNumber
	}
	number, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return strconv.ParseUint(string(number), 10, 64)
}

// content is the bytes of a body: they depend on the request's number.
func content(seq uint64, size int) []byte {
	b := make([]byte, size)
	x := seq*2862933555777941757 + 3037000493
	for i := range b {
		x = x*2862933555777941757 + 3037000493
		b[i] = byte(x >> 56)
	}
	return b
}

// checker reads a body and compares it.
type checker struct {
	r    io.Reader
	want []byte
}

// maxBody is the longest that clients send.
const maxBody = 64 << 10

func newChecker(r io.Reader, seq uint64) *checker { return &checker{r, content(seq, maxBody)} }

func (c *checker) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > len(c.want) || !bytes.Equal(p[:n], c.want[:n]) {
		return 0, errors.New("a byte is not what it should be")
	}
	c.want = c.want[n:]
	return n, err
}
