package manager

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/internal/blocking"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/selector"
)

// Config is what a Manager needs to know. The zero value is usable.
type Config struct {
	Logger hclog.Logger
	Limits Limits // zero fields: the defaults
	// Epoch differs for each life of the sidecar, successors included; hosts see it in WELCOME. Empty: random.
	Epoch string
	// Memory is where everything is that a successor would need, an empty one. Nil: one that nobody else has.
	Memory    *Memory
	ownMemory bool
	// Allow judges who may attach to the handoff sockets: nil lets the peer in, an error is its refusal. Default: our own user, and root.
	Allow func(listener.Credentials) error
	// OnService is told, from the loop, the state of the whole and of the pools whose state has
	// changed. It must not block.
	OnService func(whole ServiceState, changed []PoolService)
	// Exempt are client addresses that Limits of clients do not hold for.
	Exempt []listener.Subnet
	// Answers take the place of the sidecar's own, by status. They must pass CheckAnswers, and are not changed afterwards.
	Answers Answers
}

// Manager owns every connection. Its methods may be called from any goroutine; each posts to the loop (run.go) and waits for the answer.
type Manager struct {
	config   Config
	log      hclog.Logger
	sel      *selector.Selector
	policy   *policy
	start    time.Time // when the policy's clock was 0
	events   []selector.Event
	ended    chan struct{} // closed when Run has returned, or another process has taken over
	overErr  error         // which of the two: ErrStopped or ErrReplaced; written before ended is closed
	watchers watchers
	counting counting

	mu       sync.Mutex
	commands []func() // posted, not yet obeyed; mu
	running  bool     // commands are the loop's, no longer the caller's; mu

	descriptors Descriptors // how they are divided; does not change
	set         Limits      // those set at run time, the others zero; the loop's own

	// The loop's own.
	turns    uint64       // of the loop
	service  ServiceState // what Config.OnService was told last
	settled  bool         // every listener is there (Settle): now the log may say which pools wait for hosts
	quit     bool
	doors    map[uint64]*entrance // by token
	handoffs map[uint64]*entrance
	links    map[uint64]*link
	dirty    []*link // with frames to send
	stalled  []*link // wait for descriptors in flight to arrive
	resumed  []*link // of a predecessor, whose last frames are to be obeyed
	young    []*link // have a deadline: no HELLO yet, or hanging up
	paused   pause
	halves   []*link // a frame of theirs has begun
	refusals refusals
	samples  [reasonCount]sample // of the log's lines about closed connections
	bereaved []*link             // their process has ended
	hopeless []*link             // to be hung up on after the turn: they give no sign of life
	warnNext int64               // no pause is warned about before
	stops    []chan<- StopReport
	closing  bool  // Shutdown has begun
	leaving  bool  // Shutdown is closing the last connections
	leaveBy  int64 // and ends the loop by then
	lastObey []func()
	behind   bool // more commands wait than one turn obeys
	jobs     []*job
	helpers  *blocking.Pool    // for system calls that may block
	inUse    map[int32]int     // descriptors that helpers have jobs with, and how many
	afterUse map[int32]release // to be closed when those are done
	onClosed map[int32]func()  // called when a helper has closed the descriptor
	released []int32           // sockets to be closed by helpers, at the end of the turn
	readBuf  []byte            // scratch space for input that is discarded
	peekBuf  []byte            // for requests that are looked at
	peeked   int               // bytes that were looked at in all

	diagnoses bool // the kernel tells of the other ends of Unix sockets (diagnosesUnix)
}

// New makes a Manager; Run starts it.
func New(config Config) (*Manager, error) {
	m, err := newManager(config)
	if err != nil {
		return nil, err
	}
	m.remember()
	return m, nil
}

func newManager(config Config) (*Manager, error) {
	if err := errors.Join(config.Limits.Check(), config.Answers.Check()); err != nil {
		return nil, err
	}
	descriptors, err := ProcessDescriptors()
	if err != nil {
		return nil, err
	}
	sel, err := selector.New()
	if err != nil {
		return nil, err
	}
	if err := config.fill(); err != nil {
		return nil, errors.Join(err, sel.Close())
	}
	helpers, err := newHelpers(config.Memory, sel)
	if err != nil {
		return nil, errors.Join(err, sel.Close(), config.dropMemory())
	}
	m := &Manager{
		config: config, log: config.Logger, sel: sel, descriptors: descriptors, start: time.Now().Add(time.Duration(config.Memory.head.base - monotonic())),
		events: make([]selector.Event, eventsPerTurn), ended: make(chan struct{}),
		helpers: helpers, inUse: map[int32]int{}, onClosed: map[int32]func(){}, afterUse: map[int32]release{},
		doors: map[uint64]*entrance{}, handoffs: map[uint64]*entrance{}, links: map[uint64]*link{},
		readBuf: make([]byte, 64<<10), peekBuf: make([]byte, 2*maxPeek+firstPeek),
		diagnoses: diagnosesUnix(),
	}
	m.policy = newPolicy(config.Limits.withDefaults(descriptors.Limit), (*acts)(m), config.Memory)
	m.policy.exempt = config.Exempt
	m.helpers.SetLimit(m.policy.limits.Helpers)
	return m, nil
}

// newHelpers makes the pool of helpers, whose events the selector tells.
func newHelpers(memory *Memory, sel *selector.Selector) (*blocking.Pool, error) {
	helpers, err := blocking.New(memory.head.helpers[:])
	if err != nil {
		return nil, err
	}
	if err := sel.Register(helpers.FD(), helpersToken, selector.Read|selector.EdgeTriggered); err != nil {
		helpers.End(0)
		return nil, err
	}
	return helpers, nil
}

// dropMemory closes a memory that no other process has.
func (c *Config) dropMemory() error {
	if !c.ownMemory {
		return nil
	}
	return c.Memory.Close()
}

func (c *Config) fill() (err error) {
	if c.Memory == nil {
		if c.Memory, err = NewMemory(); err != nil {
			return err
		}
		c.ownMemory = true
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Epoch == "" {
		b := make([]byte, 8)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		c.Epoch = hex.EncodeToString(b)
	}
	if c.Allow == nil {
		c.Allow = allowSelf
	}
	if c.OnService == nil {
		c.OnService = func(ServiceState, []PoolService) {}
	}
	return nil
}

func allowSelf(peer listener.Credentials) error {
	if own := os.Geteuid(); int(peer.UID) != own && peer.UID != 0 {
		return fmt.Errorf("user %d is not allowed, only %d and root", peer.UID, own)
	}
	return nil
}
