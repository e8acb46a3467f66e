//go:build !linux

package selector

import (
	"errors"
	"fmt"
	"runtime"
	"time"
)

// poller is the place of a backend on systems that have none yet. open fails, so the other methods are never reached.
type poller struct{}

var errNoBackend = fmt.Errorf("selector: no backend for %s: %w", runtime.GOOS, errors.ErrUnsupported)

func (*poller) open() error                                    { return errNoBackend }
func (*poller) add(int, uint64, Interest) error                { return errNoBackend }
func (*poller) change(int, uint64, Interest) error             { return errNoBackend }
func (*poller) remove(int) error                               { return errNoBackend }
func (*poller) wait([]Event, time.Duration) (int, bool, error) { return 0, false, errNoBackend }
func (*poller) wake()                                          {}
func (*poller) close() error                                   { return errNoBackend }
