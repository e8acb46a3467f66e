package arrange

import (
	"os"
	"path/filepath"
	"strings"
)

// apacheConfig is Apache's event MPM with a fixed number of threads, so that none is started or ended while it is measured. More
// threads than connections, since where all are busy it closes connections that it could keep; with enough for 1,000 it is slower.
const apacheConfig = `
ServerRoot {DIR}
ServerName localhost
PidFile {DIR}/apache.pid
ErrorLog {DIR}/error.log
LogLevel crit
Listen {ADDRESS}
ListenBacklog 4096
LoadModule mpm_event_module {MODULES}/mod_mpm_event.so
LoadModule authz_core_module {MODULES}/mod_authz_core.so
LoadModule mime_module {MODULES}/mod_mime.so
TypesConfig /dev/null
User {USER}
Group {GROUP}
ServerLimit 4
StartServers 4
ThreadsPerChild 64
ThreadLimit 64
MaxRequestWorkers 256
MinSpareThreads 1
MaxSpareThreads 256
MaxConnectionsPerChild 0
AsyncRequestWorkerFactor 64
KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
EnableSendfile On
EnableMMAP On
DocumentRoot {DIR}/files
<Directory {DIR}/files>
	Options None
	AllowOverride None
	Require all granted
</Directory>
`

const apacheModules = "/usr/lib/apache2/modules"

func (r *Running) startApache() error {
	files := filepath.Join(r.dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "100"), []byte(strings.Repeat("x", 100)), 0o644); err != nil {
		return err
	}
	path, err := r.write("apache.conf", apacheConfig, "{DIR}", r.dir, "{ADDRESS}", r.Address, "{MODULES}", apacheModules,
		"{USER}", "www-data", "{GROUP}", "www-data")
	if err != nil {
		return err
	}
	return r.startFront(r.command("apache2", "-DFOREGROUND", "-f", path))
}
