package sidecar

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

// Limits of the control sockets, each of them. They are generous for operators and their programs, and small beside the clients' connections.
const (
	maxControlConnections = 256              // one more takes the place of a peer that has sent nothing, or waits
	maxControlStreams     = 256              // calls at once on a connection; one more waits with the caller
	maxControlRequest     = 1 << 20          // bytes; a longer one gets RESOURCE_EXHAUSTED
	controlIdleTimeout    = 10 * time.Minute // a connection without a call is closed
	controlHelloTimeout   = 10 * time.Second // for the TLS and HTTP/2 handshakes
	controlStopTimeout    = time.Second      // for calls under way when the sidecar ends; then they are cut
)

// changing are the calls that change something, which are logged.
var changing = map[string]bool{
	pb.ConnectionManagerService_Put_FullMethodName:       true,
	pb.ConnectionManagerService_Revoke_FullMethodName:    true,
	pb.ConnectionManagerService_Stop_FullMethodName:      true,
	pb.ConnectionManagerService_Start_FullMethodName:     true,
	pb.ConnectionManagerService_Close_FullMethodName:     true,
	pb.ConnectionManagerService_SetLimits_FullMethodName: true,
	pb.ConnectionManagerService_Upgrade_FullMethodName:   true,
	pb.ConnectionManagerService_Reload_FullMethodName:    true,
}

// control is the gRPC side of the sidecar: one server for each socket, the same services on all.
type control struct {
	log     hclog.Logger
	service *service
	health  healthpb.HealthServer
	servers []*grpc.Server
}

// serve makes a server with the given options for l, and returns the function that runs it until stop.
func (c *control) serve(l net.Listener, options ...grpc.ServerOption) func() error {
	s := grpc.NewServer(append(options,
		grpc.MaxConcurrentStreams(maxControlStreams),
		grpc.MaxRecvMsgSize(maxControlRequest),
		grpc.ConnectionTimeout(controlHelloTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: controlIdleTimeout}),
		grpc.ChainUnaryInterceptor(c.logChange, unaryFailures),
		grpc.ChainStreamInterceptor(streamFailures),
	)...)
	pb.RegisterConnectionManagerServiceServer(s, c.service)
	healthpb.RegisterHealthServer(s, c.health)
	reflection.Register(s)
	c.servers = append(c.servers, s)
	return func() error { return s.Serve(newNewest(l, maxControlConnections, true)) }
}

// stop lets calls under way finish within controlStopTimeout, then cuts them. It returns soon after
// that, whatever a call is waiting for.
func (c *control) stop() {
	var calls sync.WaitGroup
	for _, s := range c.servers {
		calls.Go(s.GracefulStop)
	}
	if within(controlStopTimeout, calls.Wait) {
		return
	}
	for _, s := range c.servers {
		calls.Go(s.Stop)
	}
	if !within(controlStopTimeout, calls.Wait) {
		c.log.Error("a call goes on though it was cut")
	}
}

// within runs f and reports whether it has returned in time. If not, f goes on.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// logChange keeps a record of who changed what.
func (c *control) logChange(ctx context.Context, req any, call *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	answer, err := next(ctx, req)
	switch {
	case !changing[call.FullMethod]:
	case err != nil:
		c.log.Warn("an operator's call failed", "call", call.FullMethod, "request", req, "peer", caller(ctx), "error", err)
	default:
		c.log.Info("an operator's call", "call", call.FullMethod, "request", req, "peer", caller(ctx))
	}
	return answer, err
}

// caller is the user at the other end of a Unix socket, or the address and the subject of the certificate.
func caller(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	if t, ok := p.AuthInfo.(grpccredentials.TLSInfo); ok && len(t.State.PeerCertificates) > 0 {
		return p.Addr.String() + " " + t.State.PeerCertificates[0].Subject.String()
	}
	return p.Addr.String()
}

// tls reads the files. Both sides must show a certificate, and speak TLS 1.3.
func (t ControlTCP) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and its key %s cannot be used; give PEM files that belong together: %w", t.Cert, t.Key, err)
	}
	authorities, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("the clients' authorities cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, errors.New(t.ClientCA + " holds no certificate; give a PEM file with those of the clients' authorities")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
	}, nil
}
