package selector

import "sync/atomic"

// users counts the callers inside the poller, so that its descriptors are closed only when nobody uses their numbers any more. It takes the
// place of a lock on the hot path: entering and leaving are one atomic operation each.
type users struct {
	state atomic.Int64 // callers, and noMore once refuse was called
	none  chan struct{}
}

const noMore = 1 << 62

func (u *users) init() { u.none = make(chan struct{}) }

// enter reports whether the caller may go in; if so it has to leave.
func (u *users) enter() bool {
	for {
		n := u.state.Load()
		if n&noMore != 0 {
			return false
		}
		if u.state.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (u *users) leave() {
	if u.state.Add(-1) == noMore {
		close(u.none)
	}
}

// refuse lets nobody in from now on, except its caller, who has to leave. It reports false if that was so already.
func (u *users) refuse() bool {
	for {
		n := u.state.Load()
		if n&noMore != 0 {
			return false
		}
		if u.state.CompareAndSwap(n, (n+1)|noMore) {
			return true
		}
	}
}

// leaving reports whether refuse was called.
func (u *users) leaving() bool { return u.state.Load()&noMore != 0 }

// wait returns when refuse was called and all have left.
func (u *users) wait() { <-u.none }
