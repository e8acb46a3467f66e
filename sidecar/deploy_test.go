package sidecar

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// engineGrace is how long container engines wait between SIGTERM and SIGKILL by default.
const engineGrace = 10 * time.Second

// TestDeploymentsGiveTheDrainItsTime: the files under deploy have the sidecar killed only
// after its drain, and restarted only if it does not live.
func TestDeploymentsGiveTheDrainItsTime(t *testing.T) {
	image := deployed(t, "image/Dockerfile.sidecar")
	if drain := image.duration(`ENV ANTEROOM_DRAIN_TIMEOUT=(\S+)`); drain >= engineGrace {
		t.Errorf("the image drains for %v, and is killed after %v", drain, engineGrace)
	}
	if check := image.find(`HEALTHCHECK .*CMD (.*)`); !strings.Contains(check, `"--live"`) {
		t.Errorf("the image's health check is %s; want --live", check)
	}
	compose := deployed(t, "compose/docker-compose.yml")
	service := compose.section(`(?ms)^  sidecar:\n(.*?)^  \w+:`)
	if drain, grace := service.duration(`--drain-timeout=(\S+)`), service.duration(`stop_grace_period: (\S+)`); drain >= grace {
		t.Errorf("compose: it drains for %v, and is killed after %v", drain, grace)
	}
	unit := deployed(t, "systemd/anteroom.service")
	if grace := unit.duration(`TimeoutStopSec=(\d+)`); grace <= DefaultDrainTimeout || strings.Contains(unit.text, "drain-timeout") {
		t.Errorf("systemd: it drains for %v, and is killed after %v", DefaultDrainTimeout, grace)
	}
}

// deployment is a file, or a part of one, under deploy.
type deployment struct {
	t    *testing.T
	text string
}

func deployed(t *testing.T, name string) deployment {
	t.Helper()
	text, err := os.ReadFile("../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return deployment{t, string(text)}
}

// find is what the pattern's first group matches.
func (d deployment) find(pattern string) string {
	d.t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(d.text)
	if found == nil {
		d.t.Fatalf("there is no %s in\n%s", pattern, d.text)
	}
	return found[1]
}

func (d deployment) section(pattern string) deployment {
	d.t.Helper()
	return deployment{d.t, d.find(pattern)}
}

// duration is find as a time; a bare number is seconds.
func (d deployment) duration(pattern string) time.Duration {
	d.t.Helper()
	text := d.find(pattern)
	if strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		d.t.Fatal(err)
	}
	return value
}
