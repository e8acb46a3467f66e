package sidecar

import (
	"io"

	"github.com/hashicorp/go-hclog"
)

// logger is the root logger; each part gets a named child of it. Check has seen to the level: what hclog does not know it takes for no level.
func (c *Config) logger(w io.Writer) hclog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return hclog.New(&hclog.LoggerOptions{
		Name:       "anteroom",
		Level:      hclog.LevelFromString(c.logLevel()),
		Output:     w,
		JSONFormat: c.logFormat() == "json",
	})
}
