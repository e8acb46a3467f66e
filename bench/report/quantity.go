package report

import (
	"math"
	"strconv"
)

// quantity writes a number with three digits that count, and no more zeros than it needs.
func quantity(v float64) string {
	switch size := math.Abs(v); {
	case v == 0:
		return "0"
	case size >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case size >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case size >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

// scale is how people read a metric: a unit and what to divide by.
type scale struct {
	unit    string
	divisor float64
}

var scales = map[Metric]scale{
	Rate:         {"thousand requests/s", 1000},
	FrontCPU:     {"µs", 1000},
	WorkerCPU:    {"µs", 1000},
	ClientCPU:    {"µs", 1000},
	P50:          {"µs", 1000},
	P99:          {"µs", 1000},
	Throughput:   {"MiB/s", 1},
	FrontPerGB:   {"s/GiB", 1},
	BaseMemory:   {"MB", 1e6},
	IdleMemory:   {"bytes", 1},
	KernelMemory: {"kB", 1000},
	RestCPU:      {"% of a core", 1},

	Undisturbed:    {"thousand requests/s", 1000},
	Kept:           {"%", 1},
	UndisturbedP99: {"µs", 1000},
	Leases:         {"at once", 1},
	HeldLeases:     {"at once", 1},
	FrontRSS:       {"MB", 1e6},
	FrontPSS:       {"MB", 1e6},
	Spooled:        {"MB", 1e6},
	CrowdCPU:       {"% of a core", 1},
	MachineIdle:    {"% of the machine", 1},
	Stolen:         {"% of the machine", 1},
}

// cell is a spread in a table: the median, and from where to where.
func (s scale) cell(v Spread) string {
	switch v.N {
	case 0:
		return "–"
	case 1:
		return quantity(v.Median / s.divisor)
	default:
		return quantity(v.Median/s.divisor) + " (" + quantity(v.Low/s.divisor) + "–" + quantity(v.High/s.divisor) + ")"
	}
}
