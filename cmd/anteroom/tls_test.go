package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/sidecar"
	"github.com/anteroom-io/anteroom/sidecar/certtest"
)

// TestOperatorsComeOverTCP: with certificates of both sides, and with a clear error otherwise.
func TestOperatorsComeOverTCP(t *testing.T) {
	ca := certtest.New(t)
	ours, stranger := ca.Issue(t, "operator"), certtest.New(t).Issue(t, "operator")
	where := sidecarOverTCP(t, ca)
	for _, c := range []struct {
		name string
		pair certtest.Pair
		ca   string
		code int
		says string
	}{
		{"ours", ours, ca.File, exitOK, "not serving: no host is attached"},
		{"another authority's", stranger, ca.File, exitUnreachable, "do both sides trust each other's certificate?"},
		{"no files", certtest.Pair{}, "", exitUsage, "give --tls-cert, --tls-key and --tls-ca"},
		{"no authority", ours, ours.Key, exitUsage, "holds no certificate"},
	} {
		var out, errOut bytes.Buffer
		args := []string{"status", "--control", where, "--tls-cert", c.pair.Cert, "--tls-key", c.pair.Key, "--tls-ca", c.ca}
		if code := run(t.Context(), args, &out, &errOut); code != c.code || !strings.Contains(out.String()+errOut.String(), c.says) {
			t.Errorf("%s: exit code %d, want %d\n%s%s", c.name, code, c.code, &out, &errOut)
		}
	}
}

// sidecarOverTCP runs a sidecar until the test ends and returns where operators reach it.
func sidecarOverTCP(t *testing.T, ca *certtest.Authority) string {
	t.Helper()
	pair := ca.Issue(t, "sidecar")
	anyPort, err := listener.ParseAddress("tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handoff, err := listener.ParseAddress("unix://" + t.TempDir() + "/handoff.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	var log bytes.Buffer // read only once the sidecar is ready: it logs nothing more of interest
	config := sidecar.Config{
		Handoff: handoff, ControlOff: true,
		ControlTCP: sidecar.ControlTCP{Address: anyPort, Cert: pair.Cert, Key: pair.Key, ClientCA: ca.File},
		Logger:     hclog.New(&hclog.LoggerOptions{Output: &log}),
		OnReady:    func([]listener.Address) { close(ready) },
	}
	go func() { ended <- sidecar.Run(ctx, config) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	return regexp.MustCompile(`mutual TLS: listener=(\S+)`).FindStringSubmatch(log.String())[1]
}
