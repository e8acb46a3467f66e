package polyglot

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/internal/freeport"
	"github.com/anteroom-io/anteroom/test/processes"
)

var rates = flag.Duration("rates", 0, "measure `so long`, in each of the rounds, how many requests per second every server answers; 0: do not")

const (
	rounds      = 3
	connections = "32"
)

// TestRates measures each server behind the sidecar and, where it can serve alone, behind nginx and alone, in turns, and writes rows for the README's table
// to bin/polyglot-rates.md. Each takes as many requests at once as is its program's default.
func TestRates(t *testing.T) {
	if *rates == 0 {
		t.Skip("only make bench-languages measures")
	}
	var text strings.Builder
	fmt.Fprintln(&text, "| language | server | how it attaches | tested version | requests/s behind Anteroom / behind nginx / alone |\n|---|---|---|---|---|")
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			version := s.need(t)
			var numbers []string
			for _, rate := range s.rates(t) {
				numbers = append(numbers, thousands(rate))
			}
			fmt.Fprintf(&text, "| %s | %s | %s | %s | %s |\n", s.language, s.server, s.attach, version, strings.Join(numbers, " / "))
		})
	}
	if err := os.WriteFile(root+"/bin/polyglot-rates.md", []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rates are the middle ones of all rounds: behind the sidecar and, of a server that can serve alone, behind nginx and alone.
func (s server) rates(t *testing.T) (medians []float64) {
	t.Helper()
	sidecar := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	attached := s.start(t, sidecar, s.name, 0)
	addresses := []string{sidecar.Web[0]}
	if s.alone != "" {
		_, port, _ := net.SplitHostPort(freeAddress(t))
		lead(t, s.name+" alone", s.command(s.alone, "PORT="+port))
		alone := net.JoinHostPort("127.0.0.1", port)
		addresses = append(addresses, proxied(t, alone), alone)
	}
	for _, address := range addresses {
		processes.Within(t, buildTime, s.name+" answers", func() bool { return s.answers(address) })
	}
	all := make([][]float64, len(addresses))
	for range rounds {
		for i, address := range addresses {
			all[i] = append(all[i], measure(t, address))
		}
	}
	attached.leave(t)
	for _, rates := range all {
		medians = append(medians, middle(rates))
	}
	return medians
}

// proxied is the address of an nginx with a process for each processor, which keeps connections to the server open.
func proxied(t *testing.T, upstream string) string {
	t.Helper()
	dir := t.TempDir()
	address, path := freeAddress(t), filepath.Join(dir, "nginx.conf")
	configuration := arrange.NginxProxy(dir, address, runtime.NumCPU(), false, []string{upstream})
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	lead(t, "nginx", exec.Command("nginx", "-p", dir, "-c", path, "-e", filepath.Join(dir, "error.log")))
	return address
}

func (s server) answers(address string) bool {
	c, err := dial(address)
	if err != nil {
		return false
	}
	defer c.Close()
	return c.do(exchange{method: "GET", path: "/", want: "hello from " + s.word() + "\n"}) == nil
}

// freeAddress returns an address on loopback that is reserved until the test ends.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	return port.Loopback()
}

var perSecond = regexp.MustCompile(`Requests/sec: +([0-9.]+)`)

// measure has wrk send requests, and does not accept any that fails.
func measure(t *testing.T, address string) float64 {
	t.Helper()
	seconds := strconv.Itoa(int(max(*rates, time.Second).Seconds()))
	out, err := exec.Command("wrk", "--threads", "2", "--timeout", "10s", "--connections", connections, "--duration", seconds+"s", "http://"+address+"/").CombinedOutput()
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
