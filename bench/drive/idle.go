package drive

import (
	"context"
	"errors"
	"strconv"
)

// perHolder is how many idle connections one process holds: half of the usual 20,000 descriptors.
const perHolder = 7_500

// Idle is a number of connections that have been served once and now stay idle.
type Idle struct{ holders []*holder }

// Hold opens idle connections, in as many processes as their number of descriptors asks for.
func (c *Clients) Hold(ctx context.Context, url string, connections int) (*Idle, error) {
	idle := &Idle{}
	for left := connections; left > 0; left -= perHolder {
		h, err := startHolder(c.command(ctx, c.Load, "idle", "-connections", strconv.Itoa(min(left, perHolder)), url))
		if err != nil {
			return nil, errors.Join(err, idle.kill())
		}
		idle.holders = append(idle.holders, h)
	}
	for _, h := range idle.holders {
		if err := h.awaitReady(); err != nil {
			return nil, errors.Join(err, idle.kill())
		}
	}
	return idle, nil
}

// Release ends the connections and says how many the server had ended before.
func (i *Idle) Release() (lost int, err error) {
	for _, h := range i.holders {
		var result struct{ Lost int }
		_, e := h.release(&result)
		lost += result.Lost
		err = errors.Join(err, e)
	}
	return lost, err
}

// kill ends what has begun when not all of it could.
func (i *Idle) kill() (err error) {
	for _, h := range i.holders {
		err = errors.Join(err, h.kill())
	}
	return err
}
