// Command chaos kills things and counts what their clients notice.
//
// It runs sidecars under supervision, each with hosts and clients of its own. The clients check every response: its number, its connection, every byte of its
// body. Meanwhile a seeded script kills hosts, sidecars and keepers, upgrades, pauses and rolls. What went wrong is laid against what the hosts wrote down
// before they were killed: a request whose host was killed after it had read it may get a 502, one whose response had begun may be broken off; anything else is
// unexplained.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getenv(hostVariable) != "" {
		if err := beHost(); err != nil {
			fmt.Fprintln(os.Stderr, "host:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.anteroom, "anteroom", "bin/anteroom", "the program under test")
	flag.Int64Var(&o.seed, "seed", time.Now().UnixNano(), "of the script")
	flag.IntVar(&o.kills, "kills", 10_000, "processes to kill, in all")
	flag.IntVar(&o.places, "places", 3, "sidecars side by side, each with its hosts and clients")
	flag.IntVar(&o.clients, "clients", 16, "clients of each sidecar")
	flag.IntVar(&o.hosts, "hosts", 3, "hosts of each sidecar")
	flag.DurationVar(&o.most, "for", time.Hour, "the longest it may take; what was not done by then is short")
	flag.StringVar(&o.keep, "keep", "", "folder for logs; empty: one that is removed if all is well")
	flag.Parse()
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 2
	}
	os.Exit(code)
}

type options struct {
	anteroom               string
	seed                   int64
	kills                  int
	places, clients, hosts int
	most                   time.Duration
	keep                   string
}

func run(o options) (code int, err error) {
	if o.anteroom, err = filepath.Abs(o.anteroom); err != nil {
		return 0, err
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chaos"); err != nil {
			return 0, err
		}
	}
	fmt.Printf("chaos: -seed %d, logs in %s\n", o.seed, dir)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.most)
	defer cancel()

	report := newReport()
	var all sync.WaitGroup
	failed := make(chan error, o.places)
	for n := range o.places {
		all.Go(func() {
			if err := runPlace(ctx, o, n, filepath.Join(dir, strconv.Itoa(n)), report); err != nil {
				failed <- fmt.Errorf("place %d: %w", n, err)
				cancel()
			}
		})
	}
	all.Wait()
	select {
	case err = <-failed:
		return 0, err
	default:
	}
	code = report.print(o.kills)
	if code == 0 && o.keep == "" {
		return 0, os.RemoveAll(dir)
	}
	return code, nil
}

// runPlace is one sidecar with its hosts and clients, until its share of the kills is done.
func runPlace(ctx context.Context, o options, n int, dir string, report *report) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := startPlace(o, dir, report)
	if err != nil {
		return err
	}
	defer p.end()
	clientsCtx, stopClients := context.WithCancel(context.Background())
	defer stopClients()
	var clients sync.WaitGroup
	for i := range o.clients {
		clients.Go(func() { newClient(p, i, o.seed+int64(n*1000+i)).run(clientsCtx) })
	}
	share := (o.kills + o.places - 1) / o.places
	err = newScript(p, o.seed+int64(n)).run(ctx, share)
	time.Sleep(settleTime) // what is under way ends
	stopClients()
	clients.Wait()
	p.countTotals()
	return err
}

// settleTime is how long clients go on undisturbed at the end.
const settleTime = time.Second
