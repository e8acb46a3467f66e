package keeper

import (
	"testing"
	"time"
)

func TestEnding(t *testing.T) {
	var e Ending
	began := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  Request
	}{
		{0, Drain}, {0, Echo}, {echoTime - 1, Echo}, {echoTime, AtOnce}, {echoTime + 1, AtOnce}, {time.Hour, AtOnce},
	} {
		if got := e.Judge(began.Add(step.after)); got != step.want {
			t.Errorf("a signal after %v: %v, want %v", step.after, got, step.want)
		}
	}
}
