package polyglot

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

var rates = flag.Duration("rates", 0, "measure `so long`, in each of the rounds, how many requests per second every server answers; 0: do not")

const (
	rounds      = 3
	connections = "32"
)

// TestRates measures each server behind the sidecar and, where it can serve alone, alone, in turns, and writes rows for the README's table to
// bin/polyglot-rates.md. Each takes as many requests at once as is its program's default.
func TestRates(t *testing.T) {
	if *rates == 0 {
		t.Skip("only make bench-languages measures")
	}
	var text strings.Builder
	fmt.Fprintln(&text, "| language | server | how it attaches | tested version | requests/s behind Anteroom / alone |\n|---|---|---|---|---|")
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			version := s.need(t)
			behind, alone := s.rates(t)
			numbers := thousands(behind)
			if s.alone != "" {
				numbers += " / " + thousands(alone)
			}
			fmt.Fprintf(&text, "| %s | %s | %s | %s | %s |\n", s.language, s.server, s.attach, version, numbers)
		})
	}
	if err := os.WriteFile(root+"/bin/polyglot-rates.md", []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rates are the middle ones of all rounds, 0 for a server that cannot serve alone.
func (s server) rates(t *testing.T) (behind, alone float64) {
	t.Helper()
	sidecar := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	attached := s.start(t, sidecar, s.name, 0)
	addresses := []string{sidecar.Web[0]}
	if s.alone != "" {
		port := freePort(t)
		lead(t, s.name+" alone", s.command(s.alone, "PORT="+port))
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", port))
	}
	for _, address := range addresses {
		processes.Within(t, buildTime, s.name+" answers", func() bool { return s.answers(address) })
	}
	all := make([][]float64, 2)
	for range rounds {
		for i, address := range addresses {
			all[i] = append(all[i], measure(t, address))
		}
	}
	attached.leave(t)
	return middle(all[0]), middle(all[1])
}

func (s server) answers(address string) bool {
	c, err := dial(address)
	if err != nil {
		return false
	}
	defer c.Close()
	return c.do(exchange{method: "GET", path: "/", want: "hello from " + s.word() + "\n"}) == nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

var perSecond = regexp.MustCompile(`Requests/sec: +([0-9.]+)`)

// measure has wrk send requests, and does not accept any that fails.
func measure(t *testing.T, address string) float64 {
	t.Helper()
	seconds := strconv.Itoa(int(max(*rates, time.Second).Seconds()))
	out, err := exec.Command("wrk", "--threads", "2", "--connections", connections, "--duration", seconds+"s", "http://"+address+"/").CombinedOutput()
	found := perSecond.FindSubmatch(out)
	if err != nil || found == nil || strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		t.Fatalf("wrk: %v\n%s", err, out)
	}
	rate, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return rate
}

func middle(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// thousands is a number to three digits: 12,300.
func thousands(n float64) string {
	step := 1
	for ; n/float64(step) >= 1000; step *= 10 {
	}
	rounded := int(n/float64(step)+0.5) * step
	if rounded < 1000 {
		return strconv.Itoa(rounded)
	}
	return fmt.Sprintf("%d,%03d", rounded/1000, rounded%1000)
}
