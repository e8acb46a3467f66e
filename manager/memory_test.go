
// What an operator has changed holds on, until the configuration says otherwise.
func TestLimitsOutliveTheProcess(t *testing.T) {
	m := smallMemory(t)
	configured := Limits{Hosts: 5}
	first, err := New(Config{Memory: m, Limits: configured})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.SetLimits(t.Context(), Limits{Hosts: 7}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ configured, want int }{{5, 7}, {9, 9}} {
		next, err := Succeed(Config{Memory: m, Limits: Limits{Hosts: c.configured}}, Estate{})
		if err != nil {
			t.Fatal(err)
		}
		if got := next.policy.limits; got.Hosts != c.want || got.Queue == 0 {
			t.Errorf("configured %d hosts: %d, with a queue of %d; want %d", c.configured, got.Hosts, got.Queue, c.want)
		}
		if err := next.sel.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.sel.Close(); err != nil {
		t.Fatal(err)
	}
}
