package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/sidecar"
)

const (
	// callTimeout bounds a call, beside what it is asked to wait.
	callTimeout = 10 * time.Second
	// maxSocketPath is what sockaddr_un holds with a NUL at its end (unix(7)).
	maxSocketPath = 107
	// maxAnswer is the longest answer taken, in bytes: the counts of as many hosts as there may be.
	maxAnswer = 64 << 20
)

// retries is how often a command that may wait for the sidecar looks for it.
var retries = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// operator is one run of an operator's command: where the sidecar is, and where results go.
type operator struct {
	printer
	control               string
	cert, key, ca, server string

	pb.ConnectionManagerServiceClient
	health healthpb.HealthClient
}

// operatorCommand makes a command that calls the sidecar.
func operatorCommand(cmd *cobra.Command, do func(ctx context.Context, o *operator, args []string) error) *cobra.Command {
	o := new(operator)
	f := cmd.Flags()
	f.StringVar(&o.control, "control", env("ANTEROOM_CONTROL", sidecar.DefaultControl), "the sidecar's control socket: unix:///PATH or tcp://HOST:PORT (ANTEROOM_CONTROL)")
	f.StringVar(&o.cert, "tls-cert", os.Getenv("ANTEROOM_TLS_CERT"), "for tcp: our certificate chain, PEM (ANTEROOM_TLS_CERT)")
	f.StringVar(&o.key, "tls-key", os.Getenv("ANTEROOM_TLS_KEY"), "for tcp: our private key, PEM (ANTEROOM_TLS_KEY)")
	f.StringVar(&o.ca, "tls-ca", os.Getenv("ANTEROOM_TLS_CA"), "for tcp: the authorities of the sidecar's certificate, PEM (ANTEROOM_TLS_CA)")
	f.StringVar(&o.server, "tls-name", os.Getenv("ANTEROOM_TLS_NAME"), "for tcp: the name in the sidecar's certificate, if it is not the host (ANTEROOM_TLS_NAME)")
	f.BoolVar(&o.json, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.out = cmd.OutOrStdout()
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		return o.connected(func() error { return do(ctx, o, args) })
	}
	return cmd
}

func env(name, standard string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return standard
}

// connected calls do with a client, and explains what goes wrong with the call.
func (o *operator) connected(do func() error) error {
	target, creds, err := o.target()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retries, MinConnectTimeout: callTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return usage("the control socket %q: %w", o.control, err)
	}
	defer func() { _ = conn.Close() }() // the call is over
	o.ConnectionManagerServiceClient, o.health = pb.NewConnectionManagerServiceClient(conn), healthpb.NewHealthClient(conn)
	return o.explain(do())
}

// target is what gRPC calls the control socket, and how to trust it.
func (o *operator) target() (string, credentials.TransportCredentials, error) {
	scheme, rest, found := strings.Cut(o.control, "://")
	if !found {
		scheme, rest = "unix", o.control // a bare path
	}
	switch {
	case scheme == "unix" && len(rest) > maxSocketPath:
		return "", nil, usage("the control socket %q: the path has %d bytes, the kernel allows %d: choose a shorter one", o.control, len(rest), maxSocketPath)
	case scheme == "unix" && strings.HasPrefix(rest, "@"):
		return "unix-abstract:" + rest[1:], insecure.NewCredentials(), nil
	case scheme == "unix" && strings.HasPrefix(rest, "/"):
		return (&url.URL{Scheme: "unix", Path: rest}).String(), insecure.NewCredentials(), nil // a # or % in a path is no more than that
	case scheme == "tcp":
		creds, err := o.tls(rest)
		return "dns:///" + rest, creds, err
	}
	return "", nil, usage("the control socket %q is no address; give unix:///PATH or tcp://HOST:PORT", o.control)
}

// tls is for a sidecar that shows a certificate and wants to see ours.
func (o *operator) tls(address string) (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usage("the control socket %q: %w; give tcp://HOST:PORT", o.control, err)
	}
	if o.cert == "" || o.key == "" || o.ca == "" {
		return nil, usage("a control socket over TCP needs mutual TLS; give --tls-cert, --tls-key and --tls-ca")
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, usage("--tls-cert and --tls-key: %w", err)
	}
	authorities, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, usage("--tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, usage("--tls-ca: %s holds no certificate", o.ca)
	}
	if o.server != "" {
		host = o.server
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS13}), nil
}

// explained is an error that says all there is to say.
type explained interface {
	error
	explained()
}

// explain puts the error of a call into words, unless that was done before.
func (o *operator) explain(err error) error {
	s, isStatus := status.FromError(err)
	_, done := errors.AsType[explained](err)
	switch {
	case err == nil || !isStatus || done:
		return err
	case codeOfCall(s.Code()) == exitUnreachable:
		return &unreachable{o.control, err}
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("what answers at %s does not know this command; it is an older sidecar, or another program", o.control)
	}
	return &failed{err}
}

// call makes one call with the time it may take, longer by patience.
func call[Q, A any](ctx context.Context, patience time.Duration, do func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+patience)
	defer cancel()
	return do(ctx, request)
}
