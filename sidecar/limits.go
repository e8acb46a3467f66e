package sidecar

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// A limit is one field of manager.Limits, with the name it has in flags, files and the gRPC contract.
type limit struct {
	key      string // in flags and files; with underscores in the contract
	name     string // of the field in manager.Limits
	standard string // the default, for people
	usage    string
	off      int64 // the value at which it is no limit, written off; 0: it has none
	none     int64 // the value at which it lets nothing through, written none or 0; 0: it has none
}

// limits lists every field of manager.Limits, once.
var limits = []limit{
	{key: "max-connections", name: "Connections", standard: "the limit of open files less 256",
		usage: "connections in all states together; at the limit kept ones make room, then accepting pauses"},
	{key: "keep-alive-limit", name: "KeepAlive", standard: "max-connections", none: manager.KeepAliveNone,
		usage: "connections kept between requests, or none of them; what comes on top evicts the least recently used"},
	{key: "max-queue", name: "Queue", standard: "max-connections",
		usage: "requests waiting for a host in one pool; one more is answered with 503 where listeners wait for requests, else closed"},
	{key: "max-hosts", name: "Hosts", standard: "1024",
		usage: "attached hosts; one more is refused"},
	{key: "max-listeners", name: "Listeners", standard: "1024",
		usage: "listening sockets, hosts' own included; one more is denied"},
	{key: "max-newcomers", name: "Newcomers", standard: "64",
		usage: "peers of the handoff socket that have yet to say HELLO; one more is refused"},
	{key: "max-calls", name: "Calls", standard: "128",
		usage: "operators' calls that go through the connections and wait at once; one more is refused"},
	{key: "max-adopted", name: "Adopted", standard: "half of max-connections",
		usage: "connections that hosts have brought (ADOPT); one more is denied"},
	{key: "max-host-adopted", name: "HostAdopted", standard: "a quarter of max-connections",
		usage: "connections that one host has brought (ADOPT); one more is denied"},
	{key: "max-finishing", name: "Finishing", standard: "1024",
		usage: "responses that hosts have left to the sidecar (FINISH); one more is denied, and its connection reset"},
	{key: "max-host-finishing", name: "HostFinishing", standard: "256",
		usage: "responses that one host has left to the sidecar (FINISH); one more is denied, and its connection reset"},
	{key: "max-helpers", name: "Helpers", standard: "16",
		usage: "processes for system calls that may block; a quarter is kept for calls that can be ended"},
	{key: "max-redeliveries", name: "Redeliveries", standard: "3",
		usage: "how often a lease that a host could not take is tried again before its connection is closed"},
	{key: "max-client-connections", name: "ClientConnections", standard: "off", off: manager.Off,
		usage: "connections of one client address; off: no limit; the request of one more is answered with 429, or it is closed"},
	{key: "client-rate", name: "ClientRate", standard: "off", off: manager.Off,
		usage: "requests per second of one client address, where listeners wait for them; off: no limit; one more is answered with 429"},
	{key: "client-burst", name: "ClientBurst", standard: "100",
		usage: "requests of one client address that may come at once if none came for a while"},
	{key: "max-clients", name: "Clients", standard: "max-connections",
		usage: "client addresses known at once, where they are limited"},
	{key: "max-requests", name: "Requests", standard: "off", off: manager.Off,
		usage: "requests of one connection; off: no limit; with the last, its host is told to answer with Connection: close"},
	{key: "max-head", name: "Head", standard: "65536",
		usage: "bytes of a request's head, where listeners wait for it; a longer one is answered with 431"},
	{key: "wait-body", name: "WaitBody", standard: "262144",
		usage: "bytes of a request's body that are waited for, where listeners do; a longer body is handed over with its head"},
	{key: "max-body", name: "Body", standard: "off", off: math.MaxInt64,
		usage: "bytes of body that a request may announce, where listeners wait for it; off: no limit; a longer one is answered with 413"},
	{key: "min-rate", name: "MinRate", standard: "100",
		usage: "bytes per second that a request must bring on average, where listeners wait for it; a slower one is answered with 408"},
	{key: "keep-alive-timeout", name: "KeepAliveTimeout", standard: "75s",
		usage: "how long a connection stays idle between requests if its host names no other time"},
	{key: "min-idle", name: "MinIdle", standard: "off", off: manager.Off,
		usage: "how long a kept connection is idle before it may be evicted because of keep-alive-limit; off: not at all"},
	{key: "max-age", name: "Age", standard: "off", off: manager.Off,
		usage: "how old a connection may become; off: no limit; its next request is then its last"},
	{key: "first-byte-timeout", name: "FirstByteTimeout", standard: "10s",
		usage: "how long a new connection may be silent"},
	{key: "request-timeout", name: "RequestTimeout", standard: "2m",
		usage: "how long a request may take to arrive, where listeners wait for it; then it is answered with 408"},
	{key: "queue-timeout", name: "QueueTimeout", standard: "30s",
		usage: "how long a request waits for a host; then it is answered with 503 and Retry-After where listeners wait for requests, else closed"},
	{key: "lease-warn", name: "LeaseWarn", standard: "5m", off: manager.Off,
		usage: "how long a host may have a connection, and no response flow, before that is logged; off: never"},
	{key: "lease-timeout", name: "LeaseTimeout", standard: "1h",
		usage: "how long a host may have a connection, and no response flow, before it is taken back and closed"},
	{key: "send-timeout", name: "SendTimeout", standard: "1m",
		usage: "how long a client may take nothing of a response that its host has left to the sidecar"},
	{key: "linger-timeout", name: "LingerTimeout", standard: "5s",
		usage: "how long a closed connection waits for its client to have read everything"},
	{key: "ping-interval", name: "PingInterval", standard: "15s", off: manager.Off,
		usage: "how long a host may be silent before it is asked for a sign of life; off: never"},
	{key: "ping-timeout", name: "PingTimeout", standard: "5s",
		usage: "how long it may take to give one; then it gets no leases until it does"},
	{key: "hang-timeout", name: "HangTimeout", standard: "off", off: manager.Off,
		usage: "how long a host may give no sign of life before it is hung up on; off: never"},
}

// limitOf finds a limit by the name of its field in manager.Limits.
func limitOf(name string) limit {
	for _, l := range limits {
		if l.name == name {
			return l
		}
	}
	return limit{key: name, name: name}
}

// at is the limit's field, an integer of some kind; a test sees to it that there is one.
func (l limit) at(values *manager.Limits) reflect.Value {
	return reflect.ValueOf(values).Elem().FieldByName(l.name)
}

// isTimeout tells timeouts from numbers.
func (l limit) isTimeout() bool {
	field, _ := reflect.TypeFor[manager.Limits]().FieldByName(l.name)
	return field.Type == reflect.TypeFor[time.Duration]()
}

// parse reads a limit as people write it and puts it where it belongs.
func (l limit) parse(values *manager.Limits, text string) (err error) {
	var n int64
	switch {
	case text == "off" || text == "none" || text == "0":
		n, err = l.absent(text)
	case l.isTimeout():
		n, err = parseNanoseconds(text)
	default:
		n, err = l.parseNumber(text)
	}
	l.at(values).SetInt(n)
	return err
}

// absent is what a limit is that is given as off, none or 0. Off is no limit, none and 0 are nothing:
// a word that would mean the one here and the other there is a mistake.
func (l limit) absent(word string) (int64, error) {
	switch {
	case word == "off" && l.off != 0:
		return l.off, nil
	case word != "off" && l.none != 0:
		return l.none, nil
	case l.off != 0:
		return 0, fmt.Errorf("%q could mean nothing, or no limit; write off for no limit", word)
	case word == "0":
		return 0, l.zeroOutOfRange()
	}
	return 0, fmt.Errorf("%q is no value of it; give %s", word, manager.RangeOf(l.name))
}

func (l limit) zeroOutOfRange() error {
	return fmt.Errorf("0 is out of range, give %s", manager.RangeOf(l.name))
}

// absentValue is what 0 stands for in the contract, which says at each field what it means there; 0 if
// it stands for nothing.
func (l limit) absentValue() int64 { return cmp.Or(l.off, l.none) }

func parseNanoseconds(text string) (int64, error) {
	var d time.Duration
	err := parseTimeout(&d, text)
	return int64(d), err
}

func (l limit) parseNumber(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number; give %s", text, manager.RangeOf(l.name))
	}
	return l.number(n)
}

// number is what n, given by somebody, is to the manager: there zero would mean the default, or no change. The range is the manager's to check.
func (l limit) number(n uint64) (int64, error) {
	switch {
	case n > 0:
		return int64(min(n, math.MaxInt64)), nil
	case l.absentValue() != 0:
		return l.absentValue(), nil
	}
	return 0, l.zeroOutOfRange()
}

// show is the limit as people write it, or the default.
func (l limit) show(values *manager.Limits) string {
	switch n := l.at(values).Int(); {
	case n == 0:
		return l.standard
	case n == l.off:
		return "off"
	case n == l.none:
		return "none"
	case l.isTimeout():
		return time.Duration(n).String()
	default:
		return strconv.FormatInt(n, 10)
	}
}

// field is the limit's name in the contract.
func (l limit) field() string { return strings.ReplaceAll(l.key, "-", "_") }

func (l limit) descriptor(m protoreflect.Message) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(l.field()))
}

// ParseLimits reads a change of limits written as KEY=VALUE each, with the keys and values of the configuration. Every mistake is in the error.
func ParseLimits(assignments []string) (*pb.Limits, error) {
	var change manager.Limits
	var mistakes Mistakes
	given := map[string]bool{}
	for _, a := range assignments {
		key, value, both := strings.Cut(a, "=")
		switch {
		case !both || key == "" || value == "":
			mistakes.add(a, "is not KEY=VALUE; write such as max-hosts=1000")
			continue
		case given[key]:
			mistakes.add(key, "is given twice; leave one of them out")
			continue
		}
		given[key] = true
		mistakes.addErr(key, parseLimit(&change, key, value))
	}
	mistakes = append(mistakes, limitMistakes(change.Check())...)
	return limitsMessage(change), mistakes.err()
}

func parseLimit(change *manager.Limits, key, value string) error {
	var keys []string
	for _, l := range limits {
		if l.key == key {
			return l.parse(change, value)
		}
		keys = append(keys, l.key)
	}
	if settingOf(key) != nil {
		return errors.New("cannot be changed while the sidecar runs; change it in the file and reload")
	}
	return unknown("limit", key, keys)
}

// limitMistakes are the violations that a check has found.
func limitMistakes(err error) (m Mistakes) {
	bad, ok := errors.AsType[*manager.LimitsError](err)
	if !ok {
		return nil
	}
	for _, v := range bad.Violations {
		m = append(m, Mistake{Key: limitOf(v.Field).key, Problem: v.Reason})
	}
	return m
}

// limitsMessage shows the limits that are not zero.
func limitsMessage(values manager.Limits) *pb.Limits {
	shown := new(pb.Limits)
	m := shown.ProtoReflect()
	for _, l := range limits {
		if n := l.at(&values).Int(); n != 0 {
			d := l.descriptor(m)
			m.Set(d, l.message(n, d.Kind()))
		}
	}
	return shown
}

func (l limit) message(n int64, kind protoreflect.Kind) protoreflect.Value {
	if n == l.absentValue() {
		n = 0
	}
	switch kind {
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	default:
		return protoreflect.ValueOfMessage(durationpb.New(time.Duration(n)).ProtoReflect())
	}
}

// limitsOf reads a change of limits; absent fields are zero. Every violation is in the error.
func limitsOf(change *pb.Limits) (manager.Limits, error) {
	var values manager.Limits
	var bad violations
	m := change.ProtoReflect()
	for _, l := range limits {
		if d := l.descriptor(m); m.Has(d) {
			l.read(&values, m.Get(d), &bad)
		}
	}
	if outOfRange, ok := errors.AsType[*manager.LimitsError](values.Check()); ok {
		bad = append(bad, limitViolations(outOfRange)...)
	}
	return values, bad.err()
}

func (l limit) read(values *manager.Limits, given protoreflect.Value, bad *violations) {
	field := "limits." + l.field()
	if l.isTimeout() {
		d, _ := given.Message().Interface().(*durationpb.Duration)
		if l.absentValue() != 0 && d.AsDuration() == 0 {
			l.at(values).SetInt(l.absentValue())
			return
		}
		l.at(values).SetInt(int64(bad.timeout(field, d)))
		return
	}
	n, err := l.number(given.Uint())
	if err != nil {
		bad.add(field, "%v", err)
	}
	l.at(values).SetInt(n)
}

// ShowLimits shows limits of the contract as people write them.
func ShowLimits(values *pb.Limits) []Choice {
	known, _ := limitsOf(values) // what is out of range is shown as far as it can be
	shown := make([]Choice, len(limits))
	for i, l := range limits {
		shown[i] = Choice{Key: l.key, Value: l.show(&known)}
	}
	return shown
}
