package sidecar

import (
	"fmt"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// plainLogger writes values as people and programs read them, in both formats: a duration as 1m30s,
// not as a number of nanoseconds; a state by its name, not its number; a message as the JSON of the
// contract, not as a Go struct.
type plainLogger struct{ hclog.Logger }

// plain returns the arguments of a line of the log with such values in their place. The caller's
// are not changed.
func plain(args []any) []any {
	for i := 1; i < len(args); i += 2 {
		if _, changed := plainValue(args[i]); changed {
			return plainCopy(args)
		}
	}
	return args
}

func plainCopy(args []any) []any {
	copied := make([]any, len(args))
	copy(copied, args)
	for i := 1; i < len(args); i += 2 {
		copied[i], _ = plainValue(args[i])
	}
	return copied
}

// plainValue returns a value as it is to be written, and whether that is another.
func plainValue(value any) (written any, changed bool) {
	switch v := value.(type) {
	case error:
		return value, false
	case proto.Message:
		return protojson.MarshalOptions{UseProtoNames: true}.Format(v), true
	case fmt.Stringer: // a duration, a state, a reason
		return fmt.Sprint(v), true
	}
	return value, false
}

// Log and those that follow are the Logger's own, with plain values.
func (l plainLogger) Log(level hclog.Level, message string, args ...any) {
	l.Logger.Log(level, message, plain(args)...)
}

// Trace writes a line at this level.
func (l plainLogger) Trace(message string, args ...any) { l.Logger.Trace(message, plain(args)...) }

// Debug writes a line at this level.
func (l plainLogger) Debug(message string, args ...any) { l.Logger.Debug(message, plain(args)...) }

// Info writes a line at this level.
func (l plainLogger) Info(message string, args ...any) { l.Logger.Info(message, plain(args)...) }

// Warn writes a line at this level.
func (l plainLogger) Warn(message string, args ...any) { l.Logger.Warn(message, plain(args)...) }

// Error writes a line at this level.
func (l plainLogger) Error(message string, args ...any) { l.Logger.Error(message, plain(args)...) }

// With returns a logger whose lines all have these values.
func (l plainLogger) With(args ...any) hclog.Logger {
	return plainLogger{l.Logger.With(plain(args)...)}
}

// Named returns a logger for a part.
func (l plainLogger) Named(name string) hclog.Logger { return plainLogger{l.Logger.Named(name)} }

// ResetNamed is Named without the names before.
func (l plainLogger) ResetNamed(name string) hclog.Logger {
	return plainLogger{l.Logger.ResetNamed(name)}
}
