package sidecar

import (
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
)

// notify tells a service manager how we are (sd_notify(3)), where NOTIFY_SOCKET names one.
func notify(log hclog.Logger, states ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(states, "\n")); err != nil {
		log.Warn("the service manager could not be told how we are", "error", err)
	}
}
