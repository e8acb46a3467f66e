package sidecar

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/grpclog"

	"github.com/anteroom-io/anteroom/logqueue"
)

// logger is the root logger; each part gets a named child of it. Without a Config.Logger it writes
// to standard error through logqueue.Stderr, so that no reader of the log can block the sidecar.
// Check has seen to the level: what hclog does not know it takes for no level.
func (c *Config) logger() hclog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	log := plainLogger{hclog.New(&hclog.LoggerOptions{
		Name:       "anteroom",
		Level:      hclog.LevelFromString(c.logLevel()),
		Output:     logqueue.Stderr,
		JSONFormat: c.logFormat() == "json",
	})}
	logqueue.Stderr.OnDrop(func(lines uint64) {
		log.Warn("log lines were dropped: standard error was not read fast enough", "lines", lines)
	})
	if err := logqueue.GuardStderr(); err != nil {
		log.Debug("the report of a crash could block on standard error", "error", err)
	}
	queueGRPCLog()
	return log
}

// queueGRPCLog has gRPC's own errors queued too.
var queueGRPCLog = sync.OnceFunc(func() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, logqueue.Stderr))
})

// flushTimeout bounds how long a process that ends waits for the reader of its log.
const flushTimeout = 500 * time.Millisecond

// flushLog writes what is queued before this process ends.
func flushLog() { logqueue.Stderr.Flush(flushTimeout) }
