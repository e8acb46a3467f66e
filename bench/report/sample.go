// Package report turns samples into statistics, and these into tables, charts, goals and files that other tools read.
package report

import (
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/bench/gauge"
)

// Metric is a unit, which says what was measured, in the words of Go's benchmark format.
type Metric string

// The metrics.
const (
	Rate       Metric = "req/s"
	FrontCPU   Metric = "front-ns/req"  // processor time of the part in front, per request
	WorkerCPU  Metric = "worker-ns/req" // the same of the workers
	ClientCPU  Metric = "client-ns/req" // the same of the client
	P50        Metric = "p50-ns"
	P99        Metric = "p99-ns"
	Throughput Metric = "MiB/s"
	FrontPerGB Metric = "front-s/GiB" // processor time of the part in front, per GiB of bodies

	// Of idle connections: the front's own memory is what its processes have resident (PSS).
	BaseMemory   Metric = "base-B" // before they come
	IdleMemory   Metric = "B/conn" // what each of them adds
	KernelMemory Metric = "kernel-B/conn"
	RestCPU      Metric = "rest-%" // of one core, in front, while they do nothing

	// Of a load beside slow clients.
	Undisturbed    Metric = "undisturbed-req/s" // without them, just before or after
	Kept           Metric = "kept-%"            // of that rate, with them
	UndisturbedP99 Metric = "undisturbed-p99-ns"
	Leases         Metric = "leases"      // the most there were at once
	HeldLeases     Metric = "held-leases" // those there are while only the slow clients are left
	FrontRSS       Metric = "front-rss-B" // resident memory of the front beside them, shared pages counted in full
	FrontPSS       Metric = "front-pss-B" // the same, shared pages counted in part
	Spooled        Metric = "spooled-B"   // in temporary files and memfds that the front has open
	CrowdCPU       Metric = "crowd-%"     // processor time of the slow clients themselves, of one core

	MachineIdle Metric = "machine-idle-%" // of all processors
	Stolen      Metric = "stolen-%"       // of all processors: what the host of a virtual machine gave to others
)

// Sample is one measurement of one arrangement, in one round.
type Sample struct {
	Round       int                `json:"round"`
	Load        string             `json:"load"`
	Arrangement string             `json:"arrangement"`
	Begin       time.Time          `json:"begin"`
	Requests    int                `json:"requests"`
	Errors      int                `json:"errors"`
	Metrics     map[Metric]float64 `json:"metrics"`
	Raw         string             `json:"raw,omitempty"` // what the client printed
}

// Failure is a measurement that could not be made.
type Failure struct {
	Round       int    `json:"round"`
	Load        string `json:"load"`
	Arrangement string `json:"arrangement"`
	Error       string `json:"error"`
}

// Load describes one kind of load that arrangements were measured under.
type Load struct {
	Name string `json:"name"`
	What string `json:"what"` // a sentence for readers
}

// Run is everything that was measured, and where.
type Run struct {
	Title    string        `json:"title"`
	Begin    time.Time     `json:"begin"`
	Took     string        `json:"took"`
	Machine  gauge.Machine `json:"machine"`
	Settings []string      `json:"settings"` // sentences
	Rounds   int           `json:"rounds"`
	Loads    []Load        `json:"loads"`
	Samples  []Sample      `json:"samples"`
	Failures []Failure     `json:"failures,omitempty"`
	Goals    []Goal        `json:"goals"`
	Why      []Profile     `json:"why,omitempty"` // of goals that are short
}

// Add takes a sample in.
func (r *Run) Add(s Sample) { r.Samples = append(r.Samples, s) }

// Value returns what was measured in one round.
func (r *Run) Value(round int, load, arrangement string, m Metric) (float64, bool) {
	for i := range r.Samples {
		s := &r.Samples[i]
		if s.Round == round && s.Load == load && s.Arrangement == arrangement {
			v, ok := s.Metrics[m]
			return v, ok
		}
	}
	return 0, false
}

// Values returns what was measured in all rounds.
func (r *Run) Values(load, arrangement string, m Metric) (values []float64) {
	for round := 1; round <= r.Rounds; round++ {
		if v, ok := r.Value(round, load, arrangement, m); ok {
			values = append(values, v)
		}
	}
	return values
}

// Arrangements returns those measured under a load, in the order of their first samples' names in order.
func (r *Run) Arrangements(load string, order []string) (names []string) {
	for _, name := range order {
		if slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Load == load && s.Arrangement == name }) {
			names = append(names, name)
		}
	}
	return names
}
