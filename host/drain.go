package host

import (
	"context"

	"github.com/anteroom-io/anteroom/handoff"
)

// Drain leaves the sidecar gracefully: it sends no new leases and closes this host's listeners, requests under way are served and put, and when
// the last is back the host is closed. If ctx ends first, what is left is cut as by Close, and ctx's error is returned.
func (h *Host) Drain(ctx context.Context) error {
	if k := h.leave(); k != nil {
		k.drain()
	} else {
		h.cancel() // there is no one to take leave of
	}
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		_ = h.Close()
		return ctx.Err()
	}
}

// leave notes that the host does not attach again, and returns the link.
func (h *Host) leave() *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = true
	return h.link
}

func (k *link) drain() {
	k.mu.Lock()
	if !k.draining {
		k.draining = true
		k.addLocked(&handoff.Frame{Type: handoff.TypeDrain})
	}
	k.flushUnlock()
}

// Close leaves at once. The sidecar takes back the leases that are out; requests under way are cut.
func (h *Host) Close() error {
	h.leave()
	h.cancel()
	<-h.done
	return nil
}
