package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
	"github.com/anteroom-io/anteroom/status"
)

// ErrAborted is what Run returns if Config.Abort cut its drain short.
var ErrAborted = errors.New("ended before the drain was over")

var errNoReason = errors.New("it gave no reason")

// sidecar is all parts, running.
type sidecar struct {
	config     *Config
	root       hclog.Logger // for each part a child of it
	log        hclog.Logger
	program    string // this process's, whatever has become of the file
	succession *succession
	replaced   chan struct{} // an upgrade has succeeded
	upgrading  sync.Mutex    // one at a time

	sockets *sockets
	serving *serving
	told    string // of serving, to the service manager and the log
	manager *manager.Manager
	control *control
	http    *http.Server // nil: none

	parts  sync.WaitGroup
	failed chan error // the first part that ended unasked
}

// Run runs a sidecar until ctx ends. Then it drains: nothing new is accepted or lent, leases have Config.DrainTimeout to come back, every
// connection is closed properly, and Run returns nil. Mistakes in the configuration come back before anything is opened.
func Run(ctx context.Context, c Config) error {
	if err := c.Check(); err != nil && !afterDeath() { // what was right when the predecessor began is right
		return err
	}
	s := &sidecar{config: &c, root: c.logger(), serving: newServing(), failed: make(chan error, 1), replaced: make(chan struct{}, 1)}
	defer flushLog()
	s.log = s.root.Named("sidecar")
	if err := s.inherit(); err != nil {
		return err
	}
	defer s.succession.close()
	if err := s.open(); err != nil {
		return s.succession.failed(err)
	}
	defer s.sockets.close()
	err := s.start()
	if err == nil {
		err = s.untilEnd(ctx)
	} else {
		err = s.succession.failed(err)
	}
	return errors.Join(err, s.end(err != nil))
}

func (s *sidecar) inherit() (err error) {
	if s.program, err = os.Executable(); err != nil {
		return err
	}
	s.program = strings.TrimSuffix(s.program, " (deleted)") // replaced while it ran (proc(5))
	s.succession, err = inherit(s.config, Supervised(), s.root.Named("keeper"))
	return err
}

// open makes everything that can fail for reasons outside: sockets, then the manager.
func (s *sidecar) open() (err error) {
	if s.sockets, err = openSockets(s.config, s.succession, s.log); err != nil {
		return err
	}
	if err = s.succession.accept(); err != nil {
		s.sockets.giveUp()
		return err
	}
	if err = s.succession.keep(s.sockets.opened); err != nil {
		s.sockets.giveUp()
		return err
	}
	s.manager, err = s.succession.manager(manager.Config{
		Logger:    s.root.Named("manager"),
		Limits:    s.config.Limits,
		Exempt:    s.config.Exempt,
		Answers:   s.config.Answers,
		Allow:     s.config.HandoffAllow.checkFor("handoff"),
		OnService: s.serving.set,
	})
	if err != nil {
		s.sockets.giveUp()
		return err
	}
	s.control = &control{log: s.root.Named("control"), service: newService(managed{s.manager}, s.Upgrade, s.Reload), health: s.serving}
	s.run("manager", s.manager.Run)
	return nil
}

// managed gives the manager's watchers as the interface that the service asks for.
type managed struct{ *manager.Manager }

// Watch begins to watch.
func (m managed) Watch(buffer int, kinds ...manager.EventKind) eventSource {
	return m.Manager.Watch(buffer, kinds...)
}

// start lets operators in, then hosts, then clients.
func (s *sidecar) start() error {
	listening := addresses(s.sockets.clients)
	for _, step := range []func() error{s.startControl, s.startControlTCP, s.startStatus, s.startHandoff, s.startClients, s.takeStrays, keepReserve, s.succession.serving, s.manager.Settle} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, warning := range s.config.Warnings() {
		s.log.Warn(warning)
	}
	s.log.Info("started", "version", s.config.version(), "listen", texts(listening), "handoff", s.config.handoff(), "control", s.config.controlText())
	_, s.told = s.serving.condition("")
	notify(s.log, append(s.succession.mainPID(), daemon.SdNotifyReady, "STATUS="+s.told)...)
	if s.config.OnReady != nil {
		s.config.OnReady(listening)
	}
	return nil
}

func addresses(listeners []*listener.Listener) []listener.Address {
	all := make([]listener.Address, len(listeners))
	for i, l := range listeners {
		all[i] = l.Addr()
	}
	return all
}

// texts are addresses as the configuration has them.
func texts(addresses []listener.Address) []string {
	all := make([]string, len(addresses))
	for i, a := range addresses {
		all[i] = a.String()
	}
	return all
}

func (s *sidecar) startControl() error {
	if s.sockets.control == nil {
		return nil
	}
	l, err := s.operatorListener(s.sockets.control)
	if err != nil {
		return err
	}
	s.run("control", s.control.serve(&guarded{l, s.config.ControlAllow.checkFor("control"), s.control.log}))
	return nil
}

func (s *sidecar) startControlTCP() error {
	if s.sockets.controlTCP == nil {
		return nil
	}
	tls, err := s.config.ControlTCP.tls()
	if err != nil && afterDeath() {
		s.log.Error("operators on other machines cannot connect; mend the files, then reload", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	l, err := s.operatorListener(s.sockets.controlTCP)
	if err != nil {
		return err
	}
	s.control.log.Info("operators may connect with mutual TLS", "listener", s.sockets.controlTCP.String())
	s.run("control-tcp", s.control.serve(l, grpc.Creds(grpccredentials.NewTLS(tls))))
	return nil
}

// Limits of the HTTP side, which serves short pages to a few readers.
const (
	maxStatusConnections = 64 // one more takes the place of the one that has been open longest
	statusHeadTimeout    = 5 * time.Second
	statusReadTimeout    = 10 * time.Second // of a whole request: nothing here takes a body
	statusPageTimeout    = 30 * time.Second
	statusIdleTimeout    = 2 * time.Minute
	maxStatusHead        = 16 << 10 // bytes of a request's head; a longer one gets 431
)

func (s *sidecar) startStatus() error {
	if s.sockets.metrics == nil {
		return nil
	}
	l, err := s.operatorListener(s.sockets.metrics)
	if err != nil {
		return err
	}
	log := s.root.Named("status")
	s.http = &http.Server{
		Handler:           status.Handler(s.manager, s.serving.condition, s.config.version(), log),
		ReadHeaderTimeout: statusHeadTimeout,
		ReadTimeout:       statusReadTimeout,
		WriteTimeout:      statusPageTimeout,
		IdleTimeout:       statusIdleTimeout,
		MaxHeaderBytes:    maxStatusHead,
		ErrorLog:          log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	log.Info("metrics and the status page are served", "listener", s.sockets.metrics.String())
	s.run("status", func() error { return s.http.Serve(newNewest(l, maxStatusConnections, false)) })
	return nil
}

// The manager owns the sockets that it is given, even if it fails to take them.

func (s *sidecar) startHandoff() error {
	l := s.sockets.handoff
	s.sockets.handoff = nil
	return s.manager.AddHandoff(l)
}

func (s *sidecar) startClients() error {
	opened := s.sockets.clients
	for i, l := range opened {
		s.sockets.clients = opened[i+1:]
		wanted := s.config.Listen[i]
		ready, _ := wanted.readiness() // checked already
		if err := s.manager.AddListener(l, manager.ListenerOptions{
			Key:  socketKey("listen", wanted.Address),
			Name: wanted.Name, Pool: wanted.Pool, Ready: ready, Continue: wanted.Expect == expectAnswer, Proxies: wanted.Proxies,
		}); err != nil {
			return err
		}
	}
	return nil
}

// takeStrays takes over what the predecessor had just accepted, and closes what nobody has claimed.
func (s *sidecar) takeStrays() error { return s.manager.TakeStrays(s.succession.estate) }

// run starts a part. What ends before it is asked to has failed.
func (s *sidecar) run(part string, f func() error) {
	s.parts.Go(func() {
		err := f()
		select {
		case s.failed <- fmt.Errorf("%s ended unasked: %w", part, or(err, errNoReason)):
		default:
		}
	})
}

// untilEnd waits for ctx, or for a part to fail.
func (s *sidecar) untilEnd(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failed:
			s.log.Error("a part failed, so the sidecar ends", "error", err)
			return err
		case <-s.config.Upgrades:
			go func() { _, _ = s.Upgrade(ctx) }() // it is logged
		case <-s.config.Reloads:
			go func() { _, _ = s.Reload(ctx) }()
		case <-s.replaced:
			s.leave()
		case <-s.serving.changed:
			s.tellCondition()
		}
	}
}

// tellCondition tells the service manager, and the log, whether requests are served if that has
// changed.
func (s *sidecar) tellCondition() {
	_, words := s.serving.condition("")
	if words == s.told {
		return
	}
	s.told = words
	s.log.Info(words)
	notify(s.log, "STATUS="+words)
}

// end drains, or ends at once where something has failed already, and returns when no part runs any more.
func (s *sidecar) end(failed bool) error {
	notify(s.log, daemon.SdNotifyStopping, "STATUS=draining")
	s.serving.drain()
	err := s.drain(failed)
	s.control.stop()
	if s.http != nil {
		_ = s.http.Close() // readers of a page can ask again
	}
	s.parts.Wait()
	s.log.Info("ended")
	return err
}

func (s *sidecar) drain(failed bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if failed {
		cancel()
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.config.Abort:
			cancel()
		case <-ended:
		}
	}()
	s.log.Info("draining", "timeout", s.config.drainTimeout())
	report, err := s.manager.Shutdown(ctx, s.config.drainTimeout())
	if report.Cut > 0 {
		s.log.Warn("leases were cut", "finished", report.Finished, "cut", report.Cut)
	}
	if errors.Is(err, manager.ErrReplaced) {
		s.leave() // the end was asked for while an upgrade was under way
	}
	if failed || errors.Is(err, manager.ErrStopped) {
		return nil // what failed is known already
	}
	if ctx.Err() != nil {
		return ErrAborted
	}
	return err
}
