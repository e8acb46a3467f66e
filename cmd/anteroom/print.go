package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// printer writes results: tables and sentences for people, JSON for programs.
type printer struct {
	out  io.Writer
	json bool
}

// marshal is a message as JSON, the same for the same message: protojson alone varies its spaces on purpose.
func marshal(m proto.Message) (json.RawMessage, error) {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// message prints a message as indented JSON.
func (p printer) message(m proto.Message) error {
	text, err := marshal(m)
	if err != nil {
		return err
	}
	return p.value(text)
}

// value prints a value as indented JSON.
func (p printer) value(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// say prints a message as JSON or, for people, a sentence.
func (p printer) say(m proto.Message, format string, args ...any) error {
	if p.json {
		return p.message(m)
	}
	_, err := fmt.Fprintf(p.out, format+"\n", args...)
	return err
}

// table is aligned columns.
type table struct{ *tabwriter.Writer }

func (p printer) table(heads ...any) table {
	t := table{tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)}
	t.row(heads...)
	return t
}

func (t table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = printable(fmt.Sprint(c))
	}
	fmt.Fprintln(t.Writer, strings.TrimRight(strings.Join(texts, "\t"), "\t"))
}

func (t table) end() error { return t.Flush() }

// printable keeps what others have chosen (names, paths, agents) from steering the terminal or the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// short shows a duration to three or so digits.
func short(d *durationpb.Duration) string {
	t := d.AsDuration()
	switch {
	case t >= time.Minute:
		return t.Round(time.Second).String()
	case t >= time.Second:
		return t.Round(10 * time.Millisecond).String()
	default:
		return t.Round(time.Microsecond).String()
	}
}

// enumWord is the part of an enum's name that differs: CONNECTION_STATE_IDLE is idle.
func enumWord(name fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name.String(), prefix))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// counted is "1 lease" or "2 leases".
func counted[N int | uint32 | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
