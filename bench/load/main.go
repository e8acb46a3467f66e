// Command load is the benchmark's client for what wrk cannot do: requests at a fixed rate, whose latency counts from when they were due;
// a new connection for each request; connections that stay idle; and slow clients. It prints its findings as one JSON object.
//
//	load rate  -connections 64 -rate 20000 -for 3s http://127.0.0.1:8080/100
//	load fresh -connections 64 -threads 2 -for 2s http://127.0.0.1:8080/100
//	load idle  -connections 7500 http://127.0.0.1:8080/100     until its standard input ends
//	load slow  -silent 1000 -head 1000 -body 500 -read 500 -for 60s http://127.0.0.1:8080/     or until its standard input ends
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

type options struct {
	connections int
	threads     int
	rate        float64 // requests per second, of all connections together
	duration    time.Duration
	seed        uint64
	crowd       crowd
	target      target
}

var modes = map[string]func(options) (any, error){"rate": rate, "fresh": fresh, "idle": idle, "slow": slow}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || modes[args[0]] == nil {
		return errors.New("say what to do first: rate, fresh, idle or slow")
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	result, err := modes[args[0]](o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func parse(mode string, args []string) (o options, err error) {
	flags := flag.NewFlagSet("load "+mode, flag.ExitOnError)
	flags.IntVar(&o.connections, "connections", 64, "how many connections at once")
	flags.IntVar(&o.threads, "threads", 1, "fresh: how many threads share the connections")
	flags.Float64Var(&o.rate, "rate", 1000, "rate: requests per second, of all connections together")
	flags.DurationVar(&o.duration, "for", time.Second, "how long")
	flags.Uint64Var(&o.seed, "seed", 1, "rate: the seed of the times at which requests are due; slow: that of the clients' order")
	flags.IntVar(&o.crowd.Silent, "silent", 0, "slow: how many connect and say nothing")
	flags.IntVar(&o.crowd.Head, "head", 0, "slow: how many send a byte of a request's head per second")
	flags.IntVar(&o.crowd.Body, "body", 0, "slow: how many post 64 kB to /100, 1 kB per second")
	flags.IntVar(&o.crowd.Read, "read", 0, "slow: how many read /1m, 10 kB per second")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.connections < 1 || o.threads < 1 || o.rate <= 0 || o.duration <= 0 {
		return o, errors.New("-connections, -threads, -rate and -for must be above zero")
	}
	o.target, err = parseTarget(flags.Arg(0))
	return o, err
}
