package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// Options says where the sidecar is and what this host is to it. The zero value attaches to the
// default place and serves the default pool, which the sidecar's own listeners feed.
type Options struct {
	// Path of the handoff socket, with or without unix:// before it. Empty: the environment
	// variable ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock.
	Path string

	// Name is how operators see this host: 1 to 64 of A-Z a-z 0-9 . _ : - and need not be unique. Empty: the environment variable ANTEROOM_NAME,
	// else the program's.
	Name string

	// Pool whose connections this host serves, by the same rule. Empty: the environment variable
	// ANTEROOM_POOL, else the pool "default" of the sidecar's listeners, or a private one if Private
	// is set.
	Pool string

	// Private gives a host that names no pool one of its own, which ends with the host. It is for
	// programs that bring their own listening socket (Listen) or connections (Adopt). Both refuse a
	// host that is in the default pool without having named it: other programs' hosts would be lent
	// its connections. ListenAndServe sets it.
	Private bool

	// Capacity is how many leases, so requests, this host takes at once, at most 4096. 0: the environment variable ANTEROOM_CAPACITY, else
	// DefaultCapacity.
	Capacity int

	// Hold is how many idle connections' descriptors this host keeps between requests, so that their next lease comes without one and finds
	// its goroutine waiting; the one that was put longest ago makes room for another. Each costs a descriptor here, and with net/http about
	// 20 kB; the connections themselves stay with the sidecar in any case. 0: DefaultHold, or a quarter of the process's limit of open
	// files if that is less. Negative: none.
	Hold int

	// Spill is how many bytes of a response that its client does not take at once may be put into memory (a memfd). Then the handler goes on,
	// and when it has returned the sidecar sends the rest (FINISH) while this host serves others. Beyond it the handler waits for its client,
	// as with net/http alone. Several requests at once on one connection (pipelining) share it. Files need no memory for this. Only net/http
	// servers use it. 0: DefaultSpill. Negative: none, files excepted.
	Spill int64

	// SpillTotal bounds the same for all responses of this host, those included that the sidecar is still sending. 0: DefaultSpillTotal.
	SpillTotal int64

	// SendfileRoot is the directory whose files handlers may send by answering with the header X-Sendfile, see SendFile. Empty: the environment
	// variable ANTEROOM_SENDFILE_ROOT, else that header means nothing here.
	SendfileRoot string

	// Patience is how long Attach tries again if there is no sidecar yet. 0: one attempt.
	Patience time.Duration

	// Grace is how long Serve waits for requests under way when its context has ended. 0: DefaultGrace.
	Grace time.Duration

	// Forgotten, if set, is told of each connection that this host has put last and that is closed or lent elsewhere; the reasons are in
	// handoff/PROTOCOL.md. It is called in order and holds up every lease until it returns.
	Forgotten func(conn, reason uint64)

	// Agent is free text about this program for operators, such as its version; at most 100 bytes are kept.
	Agent string

	// Logger hears of attaching, losing the sidecar, and refused leases; nothing per request. Nil: slog.Default.
	Logger *slog.Logger

	unnamed bool // Pool is the default: neither the program nor the environment named one
}

// Defaults of Options.
const (
	DefaultCapacity = 256
	DefaultHold     = 1024
	DefaultGrace    = 30 * time.Second

	DefaultSpill      = 64 << 20
	DefaultSpillTotal = 512 << 20
)

// withDefaults checks the options and fills in what is left open. All mistakes are reported together.
func (o Options) withDefaults() (Options, error) {
	o.Path = handoff.SocketPath(cmp.Or(o.Path, os.Getenv(handoff.PathVariable), handoff.DefaultPath))
	o.Name = cmp.Or(o.Name, os.Getenv(NameVariable), programName())
	o.Pool = cmp.Or(o.Pool, os.Getenv(PoolVariable))
	if o.Pool == "" && !o.Private {
		o.Pool, o.unnamed = handoff.DefaultPool, true
	}
	capacity, capacityErr := capacityOf(os.Getenv(CapacityVariable))
	o.Capacity = cmp.Or(o.Capacity, capacity, DefaultCapacity)
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.Spill = cmp.Or(o.Spill, DefaultSpill)
	o.SpillTotal = cmp.Or(o.SpillTotal, DefaultSpillTotal)
	o.Hold = holdLimit(o.Hold)
	o.Agent = strings.TrimSpace("go-host/1 " + runtime.Version() + " " + o.Agent)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(
		mistake(len(o.Path) > maxPath, "Path %q has %d bytes, a socket's path has at most %d: use a shorter one", o.Path, len(o.Path), maxPath),
		mistake(!handoff.ValidName(o.Name), "Name %q: use 1 to 64 of A-Z a-z 0-9 . _ : -", o.Name),
		mistake(o.Pool != "" && !handoff.ValidName(o.Pool), "Pool %q: use 1 to 64 of A-Z a-z 0-9 . _ : - or leave it empty", o.Pool),
		mistake(o.Capacity < 1 || o.Capacity > handoff.MaxCapacity, "Capacity %d: use 1 to %d", o.Capacity, handoff.MaxCapacity),
		capacityErr,
	)
}

// The environment variables that Options fall back to, beside handoff.PathVariable.
const (
	NameVariable     = "ANTEROOM_NAME"
	PoolVariable     = "ANTEROOM_POOL"
	CapacityVariable = "ANTEROOM_CAPACITY"
)

// capacityOf reads CapacityVariable; 0 if it is empty.
func capacityOf(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	return n, mistake(err != nil || n == 0, "%s is %q: use 1 to %d", CapacityVariable, text, handoff.MaxCapacity)
}

// maxPath is what fits sockaddr_un with its terminating zero (unix(7)).
const maxPath = 107

func mistake(wrong bool, format string, args ...any) error {
	if !wrong {
		return nil
	}
	return fmt.Errorf("host: "+format, args...)
}

// programName is the program's file name, as far as it may name a host.
func programName() string {
	name := []byte(filepath.Base(os.Args[0]))
	for i, c := range name {
		if !handoff.ValidName(string(c)) {
			name[i] = '-'
		}
	}
	return string(name[:min(len(name), handoff.MaxName)])
}

func holdLimit(wanted int) int {
	if wanted != 0 {
		return max(wanted, 0)
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return DefaultHold
	}
	return int(min(DefaultHold, files.Cur/4))
}

// features is what to ask the sidecar for.
func (o *Options) features() []string {
	list := []string{handoff.FeatureAddress, handoff.FeatureFinish}
	if o.Hold > 0 {
		list = append(list, handoff.FeatureCache)
	}
	if o.Forgotten != nil {
		list = append(list, handoff.FeatureTrack)
	}
	return list
}

// Attach connects to the sidecar and introduces this host. From then on leases arrive: call Next, or serve Listener, or the sidecar believes in
// capacity that is not there. The host stays attached, also over a restart of the sidecar, until Drain or Close; ctx is only for attaching.
func Attach(ctx context.Context, o Options) (*Host, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h := newHost(o)
	k, err := h.firstLink(ctx)
	if err != nil {
		h.cancel()
		return nil, err
	}
	h.use(k)
	go h.run(k)
	return h, nil
}

// errInterrupted is the error of an attempt to attach whose context ended.
var errInterrupted = errors.New("host: the context ended before this host was attached")

// firstLink tries for as long as Options.Patience allows. If ctx ends first, the error is an
// errInterrupted that also wraps ctx's cause.
func (h *Host) firstLink(ctx context.Context) (*link, error) {
	until := time.Now().Add(h.opts.Patience)
	for pause := (backoff{}); ; {
		k, err := h.connect(ctx)
		if err == nil || permanent(err) {
			return k, err
		}
		if ctx.Err() == nil && time.Now().After(until) {
			return nil, err
		}
		if !pause.sleep(ctx) {
			return nil, fmt.Errorf("%w (%w): %w", errInterrupted, context.Cause(ctx), err)
		}
	}
}

// helloTime is how long the sidecar has to answer HELLO.
const helloTime = 5 * time.Second

// connect makes a link: dial, HELLO, WELCOME.
func (h *Host) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", h.opts.Path)
	if err != nil {
		return nil, dialError(h.opts.Path, err)
	}
	sock, _ := c.(*net.UnixConn)
	defer context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Unix(1, 0)) })()
	k, err := h.introduce(sock)
	if err != nil {
		_ = sock.Close()
		return nil, fmt.Errorf("host: attaching to the sidecar at %s: %w", h.opts.Path, cmp.Or(context.Cause(ctx), err))
	}
	return k, nil
}

// dialError says what to do about it.
func dialError(path string, err error) error {
	hint := "is this path the sidecar's handoff socket?"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "there is no such socket: start the sidecar (anteroom serve --handoff " + path + "), or name its socket by Options.Path or " + handoff.PathVariable
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "nothing listens there: the sidecar has stopped, or this is no socket"
	case errors.Is(err, fs.ErrPermission):
		hint = "name this program's user in the sidecar's option handoff-allow-uid, or its group in handoff-allow-gid; " +
			"if it is named there, the mode of the socket or of a folder above it is in the way"
	}
	return fmt.Errorf("host: connecting to the sidecar at %s: %w; %s", path, err, hint)
}

// introduce says HELLO and reads the answer.
func (h *Host) introduce(sock *net.UnixConn) (*link, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	k := newLink(h, sock, raw)
	k.granted = max(h.Capacity(), 1)
	hello := handoff.Hello{
		Name: h.opts.Name, Pool: h.opts.Pool, Capacity: k.granted, Features: h.opts.features(), Agent: h.opts.Agent,
	}
	f := hello.Frame()
	k.now.Add(&f)
	if err := k.sendNow(); err != nil && !errors.Is(err, io.EOF) { // a sidecar may refuse us before it has read a byte, and say why
		return nil, err
	}
	if k.welcome, err = k.readWelcome(); err != nil {
		k.in.Close()
		return nil, err
	}
	if k.agreed(handoff.FeatureCache) {
		k.hold = h.opts.Hold
	}
	return k, nil
}

func (k *link) readWelcome() (*handoff.Welcome, error) {
	for {
		var f handoff.Frame
		fd, ok, err := k.in.Next(&f)
		closeFD(fd)
		if ok {
			return handoff.WelcomeOf(&f)
		}
		if err == nil {
			err = k.receive()
		}
		if err != nil {
			return nil, hungUp(err)
		}
	}
}

// permanent reports whether trying again makes no sense: the sidecar has judged this host's HELLO, not the moment.
func permanent(err error) bool {
	var fault *handoff.Fault
	if !errors.As(err, &fault) {
		return false
	}
	switch fault.Code {
	case handoff.CodeBadFrame, handoff.CodeBadMagic, handoff.CodeBadVersion, handoff.CodeBadPayload, handoff.CodeNotAllowed:
		return true
	default:
		return false
	}
}

// Reconnecting starts at firstPause and doubles to lastPause; each pause is cut by up to a half at random, so that many hosts do not come at once.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

type backoff struct{ pause time.Duration }

// sleep reports whether the context lived through it.
func (b *backoff) sleep(ctx context.Context) bool {
	b.pause = min(max(2*b.pause, firstPause), lastPause)
	timer := time.NewTimer(b.pause - rand.N(b.pause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
