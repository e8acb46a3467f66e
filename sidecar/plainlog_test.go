package sidecar

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// The log has no nanoseconds and no Go structs, whichever its format, its level and its part.
func TestTheLogHasPlainValues(t *testing.T) {
	request := &pb.SetLimitsRequest{Limits: &pb.Limits{KeepAliveLimit: proto.Uint32(5)}}
	for name, write := range map[string]func(hclog.Logger, ...any){
		"Log":   func(l hclog.Logger, args ...any) { l.Log(hclog.Info, "m", args...) },
		"Trace": func(l hclog.Logger, args ...any) { l.Trace("m", args...) },
		"Debug": func(l hclog.Logger, args ...any) { l.Debug("m", args...) },
		"Info":  func(l hclog.Logger, args ...any) { l.Info("m", args...) },
		"Warn":  func(l hclog.Logger, args ...any) { l.Warn("m", args...) },
		"Error": func(l hclog.Logger, args ...any) { l.Error("m", args...) },
		"With":  func(l hclog.Logger, args ...any) { l.Named("a").ResetNamed("b").With(args...).Info("m") },
	} {
		for _, asJSON := range []bool{false, true} {
			var out bytes.Buffer
			l := plainLogger{hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &out, JSONFormat: asJSON})}
			args := []any{"after", 90 * time.Second, "request", request, "state", manager.Idle, "error", io.EOF}
			write(l, args...)
			if _, kept := args[1].(time.Duration); !kept {
				t.Errorf("%s changes the caller's values", name)
			}
			if !strings.Contains(out.String(), "idle") || !strings.Contains(out.String(), "EOF") {
				t.Errorf("%s: %s", name, out.String())
			}
			after, shown := "after=1m30s", `"keep_alive_limit`
			if asJSON {
				var line map[string]any
				if err := json.Unmarshal(out.Bytes(), &line); err != nil {
					t.Fatal(err)
				}
				after, _ = line["after"].(string)
				if after != "1m30s" {
					t.Errorf("%s: %s", name, out.String())
				}
				shown = `\"keep_alive_limit`
			}
			if !asJSON && !strings.Contains(out.String(), after) || !strings.Contains(strings.ReplaceAll(out.String(), `\\"`, `\"`), shown) {
				t.Errorf("%s: %s", name, out.String())
			}
		}
	}
}
