package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/anteroom-io/anteroom/handoff"
)

// ErrClosed is what a host returns that has drained or was closed.
var ErrClosed = errors.New("host: closed")

// Host is this process's attachment to a sidecar. Its methods may be called from any goroutine.
type Host struct {
	opts   Options
	log    *slog.Logger
	queue  chan *connection // leases for Next
	room   *spillRoom
	ctx    context.Context // ends when the host is to end
	cancel context.CancelFunc
	done   chan struct{} // closed when it has

	refusing atomic.Bool // leases that come are given back
	short    sync.Once   // says that the process is out of descriptors

	mu        sync.Mutex
	link      *link // nil while there is no sidecar
	capacity  int
	paused    bool // no listener wants leases
	listeners int  // of net/http
	leaving   bool // Drain was called
	sockets   []*Listening
	err       error // why the host has ended
}

func newHost(o Options) *Host {
	h := &Host{opts: o, log: o.Logger.With("host", o.Name), queue: make(chan *connection, handoff.MaxCapacity), done: make(chan struct{}), capacity: o.Capacity}
	h.room = &spillRoom{response: max(o.Spill, 0), total: max(o.SpillTotal, 0)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// run keeps the host attached until it is to end.
func (h *Host) run(k *link) {
	defer close(h.done)
	for {
		err := h.live(k)
		if h.ctx.Err() != nil || h.isLeaving() {
			h.finish(ErrClosed)
			return
		}
		h.log.Warn("the sidecar is gone, attaching again as soon as it is back", "path", h.opts.Path, "error", err)
		if k, err = h.relink(errors.Is(err, errLeft)); err != nil {
			h.finish(err)
			return
		}
		h.resume(k)
	}
}

// live is one life of the link.
func (h *Host) live(k *link) error {
	defer context.AfterFunc(h.ctx, func() { k.hangUp(ErrClosed) })()
	h.log.Info("attached to the sidecar", "path", h.opts.Path, "pool", k.welcome.Pool, "number", k.welcome.Host, "listeners", k.welcome.Listeners)
	err := k.run()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.link = nil
	return err
}

// use makes k the host's link.
func (h *Host) use(k *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.link = k
}

// resume gives a sidecar that is new, or back, what the last one knew.
func (h *Host) resume(k *link) {
	h.use(k)
	h.mu.Lock()
	sockets, capacity := slices.Clone(h.sockets), h.wantedLocked()
	h.mu.Unlock()
	if capacity != k.granted {
		k.setCapacity(capacity)
	}
	go relisten(k, sockets)
}

// relink attaches again. Told to leave, it gives the sidecar that told it time to do so.
func (h *Host) relink(asked bool) (*link, error) {
	pause := backoff{}
	if asked {
		pause.pause = lastPause / 4
	}
	for pause.sleep(h.ctx) {
		k, err := h.connect(h.ctx)
		if err == nil || permanent(err) {
			return k, err
		}
	}
	return nil, ErrClosed
}

func (h *Host) finish(err error) {
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *Host) isLeaving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaving
}

// Next waits for a lease. After Drain, Close, or a refusal that trying again cannot change, it returns why, ErrClosed for the first two.
func (h *Host) Next(ctx context.Context) (Lease, error) {
	for {
		c, err := h.nextQueued(ctx)
		if err != nil {
			return Lease{}, err
		}
		if l, ok := c.link.take(c); ok {
			return l, nil
		}
	}
}

func (h *Host) nextQueued(ctx context.Context) (*connection, error) {
	select {
	case c := <-h.queue: // the cheap way, when there is much to do
		return c, nil
	default:
	}
	select {
	case c := <-h.queue:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.done:
		return nil, h.why()
	}
}

// take turns a queued lease into its receiver's, unless it was taken back meanwhile.
func (k *link) take(c *connection) (Lease, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state != stateQueued {
		return Lease{}, false
	}
	c.state = stateLeased
	return c.lease, true
}

func (h *Host) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Pool is the pool this host serves, as the sidecar named it; empty while there is no sidecar.
func (h *Host) Pool() string {
	if k := h.present(); k != nil {
		return k.welcome.Pool
	}
	return ""
}

// Addresses are the sidecar's own listeners whose connections this host's pool gets, as of attaching.
func (h *Host) Addresses() []string {
	if k := h.present(); k != nil {
		return k.welcome.Listeners
	}
	return nil
}

// present is the link, nil while there is no sidecar.
func (h *Host) present() *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.link
}

// Capacity is how many leases this host takes at once, 0 while it is paused.
func (h *Host) Capacity() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wantedLocked()
}

func (h *Host) wantedLocked() int {
	if h.paused {
		return 0
	}
	return h.capacity
}

// SetCapacity changes how many leases this host takes at once, from 0, which pauses it, to 4096. Leases it has are not touched.
func (h *Host) SetCapacity(n int) error {
	if n < 0 || n > handoff.MaxCapacity {
		return fmt.Errorf("host: capacity %d: use 0 to %d", n, handoff.MaxCapacity)
	}
	h.adjust(func() { h.capacity = n })
	return nil
}

// pause stops leases, or lets them come again.
func (h *Host) pause(paused bool) { h.adjust(func() { h.paused = paused }) }

func (h *Host) adjust(change func()) {
	h.mu.Lock()
	before := h.wantedLocked()
	change()
	n, k := h.wantedLocked(), h.link
	h.mu.Unlock()
	if k != nil && n != before {
		k.setCapacity(n)
	}
}

func (k *link) setCapacity(n int) {
	k.mu.Lock()
	k.addLocked(&handoff.Frame{Type: handoff.TypeCapacity, A: uint64(n)})
	k.flushUnlock()
}

// forgotten is what Options.Forgotten is told.
type forgotten struct{ conn, reason uint64 }

func (h *Host) tell(list []forgotten) {
	for _, f := range list {
		h.opts.Forgotten(f.conn, f.reason)
	}
}
