package sidecar

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

func TestEveryEnumValueHasItsCounterpart(t *testing.T) {
	for _, c := range []struct {
		enum           protoreflect.Enum
		mapped, wanted int
	}{
		{pb.ConnectionState(0), len(stateOf), int(manager.Closing)},
		{pb.CloseReason(0), len(reasonOf), len(manager.Reasons())},
		{pb.EventKind(0), len(eventKindOf), len(eventKinds)},
	} {
		values := c.enum.Descriptor().Values().Len() - 1 // the zero value means nothing
		if values != c.mapped || c.mapped != c.wanted {
			t.Errorf("%s: %d values, %d that the manager has too, and the manager has %d", c.enum.Descriptor().FullName(), values, c.mapped, c.wanted)
		}
	}
}

func TestEveryLimitIsInTheTable(t *testing.T) {
	if fields := reflect.TypeFor[manager.Limits]().NumField(); fields != len(limits) {
		t.Errorf("manager.Limits has %d fields, the table %d", fields, len(limits))
	}
	if fields := new(pb.Limits).ProtoReflect().Descriptor().Fields().Len(); fields != len(limits) {
		t.Errorf("the contract has %d limits, the table %d", fields, len(limits))
	}
	for _, l := range limits {
		var values manager.Limits
		if !reflect.ValueOf(values).FieldByName(l.name).IsValid() {
			t.Errorf("%s: manager.Limits has no field %s", l.key, l.name)
			continue
		}
		for _, n := range []int64{100_000_000, l.absentValue()} {
			l.at(&values).SetInt(n)
			if there, _ := limitsOf(limitsMessage(values)); there != values { // in range or not
				t.Errorf("%s: %+v came back as %+v", l.key, values, there)
			}
		}
	}
}

func TestLimitsSurviveTheirText(t *testing.T) {
	change, err := ParseLimits([]string{"keep-alive-limit=none", "max-hosts=7", "lease-timeout=90s", "hang-timeout=off", "max-age=1h", "client-rate=off"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := limitsOf(change)
	want := manager.Limits{KeepAlive: manager.KeepAliveNone, Hosts: 7, LeaseTimeout: 90 * time.Second, HangTimeout: manager.Off, Age: time.Hour, ClientRate: manager.Off}
	if err != nil || got != want {
		t.Errorf("%+v (%v), want %+v", got, err, want)
	}
}
