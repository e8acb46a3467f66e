package arrange

import (
	"strconv"
	"strings"
)

// nginxCommon is tuned for what is measured: no logs, connections that stay, and room for all of them. Buffers are nginx's own defaults.
const nginxCommon = `
daemon off;
worker_processes {THREADS};
worker_rlimit_nofile 20000;
pid {DIR}/nginx.pid;
error_log {DIR}/error.log crit;
events {
	use epoll;
	worker_connections 19000;
}
http {
	access_log off;
	default_type text/plain;
	tcp_nodelay on;
	keepalive_timeout 300s;
	keepalive_requests 1000000000;
	client_body_temp_path {DIR}/body;
	proxy_temp_path {DIR}/proxy;
	fastcgi_temp_path {DIR}/fastcgi;
	uwsgi_temp_path {DIR}/uwsgi;
	scgi_temp_path {DIR}/scgi;
`

// nginxProxy keeps connections to the workers open. Nothing is written to disk unless the arrangement spools.
const nginxProxy = nginxCommon + `
	upstream workers {
{SERVERS}		keepalive 1024;
		keepalive_requests 1000000000;
		keepalive_timeout 300s;
	}
	server {
		listen {ADDRESS} backlog=4096{REUSEPORT};
		location / {
			proxy_pass http://workers;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			{SPOOL}
		}
	}
}
`

const nginxReturn = nginxCommon + `
	server {
		listen {ADDRESS} backlog=4096{REUSEPORT};
		location / { return 200 "{BODY}"; }
	}
}
`

// NginxProxy is the configuration of nginx as a proxy at an address, in front of upstreams. Its files are in dir. spools: what a client has not taken of
// a response goes to one.
func NginxProxy(dir, address string, processes int, spools bool, upstreams []string) string {
	spool := "proxy_max_temp_file_size 0;"
	if spools {
		spool = ""
	}
	return nginxConf(nginxProxy, dir, address, processes, "{SERVERS}", eachLine("\t\tserver ", upstreams, ";"), "{SPOOL}", spool)
}

func (r *Running) startNginx(upstreams []string) error {
	return r.startNginxWith(NginxProxy(r.dir, r.Address, r.Threads, r.Spools, upstreams))
}

func (r *Running) startNginxReturn() error {
	return r.startNginxWith(nginxConf(nginxReturn, r.dir, r.Address, r.Threads, "{BODY}", strings.Repeat("x", 100)))
}

func (r *Running) startNginxWith(configuration string) error {
	path, err := r.write("nginx.conf", configuration)
	if err != nil {
		return err
	}
	return r.startFront(r.command("nginx", "-p", r.dir, "-c", path, "-e", r.dir+"/error.log"))
}

func nginxConf(template, dir, address string, processes int, values ...string) string {
	reuseport := ""
	if processes > 1 {
		reuseport = " reuseport" // else one process takes most connections
	}
	values = append(values, "{THREADS}", strconv.Itoa(processes), "{DIR}", dir, "{ADDRESS}", address, "{REUSEPORT}", reuseport)
	return strings.NewReplacer(values...).Replace(template)
}

func eachLine(before string, list []string, after string) string {
	var lines strings.Builder
	for _, item := range list {
		lines.WriteString(before + item + after + "\n")
	}
	return lines.String()
}
