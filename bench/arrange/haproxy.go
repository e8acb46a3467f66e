package arrange

import (
	"fmt"
	"strconv"
)

// haproxyConfig is tuned for what is measured: no logs, no checks, connections to the workers shared and kept open. Bodies are spliced in the
// kernel where haproxy finds that it pays.
const haproxyConfig = `
global
	nbthread {THREADS}
	maxconn {MAXCONN}
	no strict-limits
	tune.pool-low-fd-ratio 90
	tune.pool-high-fd-ratio 95
defaults
	mode http
	no log
	option splice-auto
	option http-keep-alive
	http-reuse always
	timeout connect 5s
	timeout client 300s
	timeout server 300s
	timeout http-keep-alive 300s
frontend clients
	bind {ADDRESS} backlog 4096
	maxconn {MAXCONN}
	default_backend workers
backend workers
	balance roundrobin
{SERVERS}`

// haproxyConnections is what 20,000 descriptors leave room for beside the connections to the workers. haproxy reckons with two descriptors
// for each and would not start ("strict-limits"), but idle clients occupy one.
const haproxyConnections = 16500

func (r *Running) startHaproxy(upstreams []string) error {
	var servers []string
	for i, address := range upstreams {
		servers = append(servers, fmt.Sprintf("w%d %s pool-max-conn 1024", i+1, address))
	}
	path, err := r.write("haproxy.cfg", haproxyConfig, "{THREADS}", strconv.Itoa(r.Threads), "{ADDRESS}", r.Address,
		"{MAXCONN}", strconv.Itoa(haproxyConnections), "{SERVERS}", eachLine("\tserver ", servers, ""))
	if err != nil {
		return err
	}
	return r.startFront(r.command("haproxy", "-db", "-f", path))
}
