package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// client is a connection for one request after another.
type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(address string) (*client, error) {
	c, err := net.DialTimeout("tcp", address, processes.Patience)
	if err != nil {
		return nil, err
	}
	return &client{c, bufio.NewReaderSize(c, 512)}, nil
}

func mustDial(t testing.TB, address string) *client {
	t.Helper()
	c, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var (
	errWrong = errors.New("a wrong answer")            // never right, whatever dies
	errEnded = errors.New("the connection has ended")  // what may happen when a host dies
	errLast  = errors.New("right, but the last of it") // Connection: close
)

func (c *client) ask(word string, size int, wait time.Duration) error {
	if err := c.send(word, size, wait); err != nil {
		return err
	}
	return c.receive(word, size)
}

func (c *client) send(word string, size int, wait time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(processes.Patience))
	if _, err := fmt.Fprintf(c, "GET /%s/%d/%d HTTP/1.1\r\nHost: test.example\r\n\r\n", word, size, wait.Milliseconds()); err != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return nil
}

// receive judges the answer: right, wrong, or none because the connection has ended.
func (c *client) receive(word string, size int) error {
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return ended(err)
	}
	got, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	want := body(word, size)
	switch {
	case answer.StatusCode == http.StatusBadGateway && err == nil && answer.Close:
		return fmt.Errorf("%w: its host had read the request, and died", errEnded)
	case !bytes.HasPrefix(want, got):
		return fmt.Errorf("%w to %s: %d %.60q…", errWrong, word, answer.StatusCode, got)
	case err != nil:
		return ended(err)
	case len(got) < len(want) || answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%w to %s: %d, %d of %d bytes", errWrong, word, answer.StatusCode, len(got), len(want))
	case answer.Close:
		return errLast
	}
	return nil
}

// ended: an end of the connection is allowed, silence is not.
func ended(err error) error {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: none within %v", errWrong, processes.Patience)
	}
	return fmt.Errorf("%w: %w", errEnded, err)
}

// beClients opens many connections, each for one request, and says so; on each line it is sent, every tenth asks once more.
func beClients() error {
	number, err := strconv.Atoi(os.Getenv("ANTEROOM_TEST_CLIENTS"))
	if err != nil {
		return err
	}
	all, err := gather(os.Getenv("ANTEROOM_TEST_WEB"), number)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		asked := 0
		for i := 0; i < len(all); i += 10 {
			if err := all[i].ask(fmt.Sprintf("again-%d-%d", os.Getpid(), i), 20, 0); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			asked++
		}
		fmt.Println("asked", asked)
	}
	return nil
}

// gather opens connections, some at a time.
func gather(address string, number int) ([]*client, error) {
	const atOnce = 16
	all, errs := make([]*client, number), make([]error, atOnce)
	var crew sync.WaitGroup
	for n := range atOnce {
		crew.Go(func() {
			for i := n; i < number && errs[n] == nil; i += atOnce {
				if all[i], errs[n] = dial(address); errs[n] == nil {
					errs[n] = all[i].ask(fmt.Sprintf("first-%d-%d", os.Getpid(), i), 20, 0)
				}
			}
		})
	}
	crew.Wait()
	return all, errors.Join(errs...)
}

// someClients starts a process with so many connections.
func someClients(t testing.TB, address string, number int) *processes.Process {
	t.Helper()
	return as(t, "clients", "ANTEROOM_TEST_WEB="+address, fmt.Sprintf("ANTEROOM_TEST_CLIENTS=%d", number))
}
