package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"
)

// Options say what to run. The zero value of a duration or number is its default.
type Options struct {
	Command      []string       // the program and its arguments
	Capacity     int            // leases at once that the program is told to take, at least 2; default 4
	Timeout      time.Duration  // each wait for the host; default 10 s
	StartTimeout time.Duration  // from the program's start until its HELLO; default 60 s
	Only         *regexp.Regexp // cases whose names match; nil: all
	Observe      func(Result)   // told of each case as it ends; may be nil
}

// Outcome is how a case ended.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "PASS"
	Fail Outcome = "FAIL"
	Skip Outcome = "SKIP" // it asks for a feature that the host did not ask for
)

// Result is what came of a case.
type Result struct {
	Case
	Outcome Outcome       `json:"outcome"`
	Reason  string        `json:"reason,omitempty"` // why it failed or was skipped
	Output  string        `json:"output,omitempty"` // what the program printed meanwhile, at most 16 KiB, if it failed
	Took    time.Duration `json:"took_ns"`
}

// Report is the result of a run.
type Report struct {
	Passed  int      `json:"passed"`
	Total   int      `json:"total"` // passed or failed; what was skipped does not count
	Results []Result `json:"results"`
}

// OK reports whether nothing failed.
func (r Report) OK() bool { return r.Passed == r.Total && r.Total > 0 }

// Cases lists all cases, in the order in which they run.
func Cases() []Case {
	return slices.Concat(helloCases, frameCases, requestCases, reuseCases, descriptorCases, clientCases, upgradeCases, linkCases, leavingCases)
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Command) == 0 {
		return o, errors.New("conformance: no command to run")
	}
	o.Capacity = max(o.Capacity, 0)
	if o.Capacity == 0 {
		o.Capacity = 4
	}
	if o.Capacity < 2 {
		return o, fmt.Errorf("conformance: capacity %d: use at least 2", o.Capacity)
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 60 * time.Second
	}
	return o, nil
}

// Run runs the cases against the command, one after the other, until ctx ends. An error means that there is no result, not that a case failed.
func Run(ctx context.Context, o Options) (Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Report{}, err
	}
	dir, socket, err := tempDir()
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &runner{ctx: ctx, opts: &o, dir: dir, socket: socket}
	defer r.end()
	var report Report
	for _, c := range Cases() {
		if o.Only != nil && !o.Only.MatchString(c.Name) {
			continue
		}
		result := r.one(c)
		if ctx.Err() != nil {
			return report, context.Cause(ctx)
		}
		report.add(result)
		if o.Observe != nil {
			o.Observe(result)
		}
	}
	return report, nil
}

func (r *Report) add(result Result) {
	r.Results = append(r.Results, result)
	switch result.Outcome {
	case Pass:
		r.Passed++
		r.Total++
	case Fail:
		r.Total++
	case Skip:
	}
}

// session is one program and the sidecar it is attached to.
type session struct {
	ctx     context.Context
	opts    *Options
	dir     string
	pool    string // that the program is told of; empty: none
	sidecar *sidecar
	process *process // nil until start
}

// start runs the program.
func (s *session) start() error {
	if err := s.sidecar.listen(); err != nil {
		return err
	}
	p, err := start(s.ctx, s.opts, s.dir, s.sidecar.path, s.pool)
	if err != nil {
		return err
	}
	s.process = p
	return nil
}

func (s *session) end() {
	s.sidecar.vanish()
	if s.process != nil {
		s.process.kill()
	}
}

// runner keeps a program running from case to case, as far as cases leave it whole.
type runner struct {
	ctx         context.Context
	opts        *Options
	dir, socket string
	present     *session // nil if the next case needs a new one
	mute        int      // programs in a row that have not said HELLO
}

func (r *runner) end() {
	if r.present != nil {
		r.present.end()
		r.present = nil
	}
}

// one runs a case.
func (r *runner) one(c Case) Result {
	began := time.Now()
	result := Result{Case: c, Outcome: Pass}
	if r.mute >= muteLimit {
		result.Outcome, result.Reason = Fail, "not run: the program does not attach"
		return result
	}
	s, err := r.session(c.own)
	if err != nil {
		result.Outcome, result.Reason = Fail, err.Error()
		return result
	}
	t := &T{session: s}
	mark := int64(0)
	if s.process != nil {
		mark = s.process.mark()
	}
	clean := t.perform(&result)
	if result.Outcome == Fail && s.process != nil {
		result.Output = s.process.outputSince(mark)
	}
	if c.own || !clean || result.Outcome == Fail || !s.process.running() {
		r.end()
	}
	result.Took = time.Since(began)
	return result
}

// muteLimit is how many programs in a row may fail to say HELLO before the rest of the cases is given up.
const muteLimit = 2

// session is what a case runs on: for one of its own nothing is started yet.
func (r *runner) session(own bool) (*session, error) {
	if own {
		r.end()
	}
	if r.present != nil {
		return r.present, nil
	}
	s := &session{ctx: r.ctx, opts: r.opts, dir: r.dir, pool: poolName, sidecar: newSidecar(r.socket)}
	r.present = s
	if own {
		return s, nil
	}
	if err := s.start(); err != nil {
		r.mute = muteLimit
		return nil, err
	}
	if err := s.attached(); err != nil {
		r.mute++
		output := s.process.outputSince(0)
		r.end()
		return nil, fmt.Errorf("%w; it printed:\n%s", err, output)
	}
	r.mute = 0
	return s, nil
}

// attached waits for the first HELLO.
func (s *session) attached() error {
	err := s.sidecar.wait(s.opts.StartTimeout, s.process.ended, func() bool { return len(s.sidecar.liveLocked()) > 0 })
	switch {
	case errors.Is(err, errEnded):
		return fmt.Errorf("the program ended (%s) before it said HELLO", s.process.result)
	case err != nil:
		return fmt.Errorf("the program has not said HELLO %v after its start", s.opts.StartTimeout)
	}
	return nil
}

// perform runs the case's function, and what is asked of every case: no fault, nothing left over.
func (t *T) perform(result *Result) (clean bool) {
	defer func() {
		if why := recover(); why != nil {
			s, ok := why.(stop)
			if !ok {
				panic(why)
			}
			result.Outcome, result.Reason = s.outcome, s.reason
			clean = t.release() && s.outcome == Skip
		}
		for _, fault := range t.sidecar.takeFaults() {
			result.Outcome, clean = Fail, false
			result.Reason = join(result.Reason, fault)
		}
	}()
	result.run(t)
	t.settle()
	return t.release()
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
