//go:build integration

package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Applications in all languages share the port: each takes as many requests as it has room for, and each client goes back to the one that served it.
// Then one after the other leaves, and a connection that was there from the start is served by those that are left.
func TestLanguages(t *testing.T) {
	p := up(t, 0)
	services := p.applications()
	p.compose(append([]string{"up", "--detach", "--no-build"}, services...)...)
	room := uint32(len(services) * capacity)
	p.awaitRoom(room)

	clients := make([]*client, room)
	for i := range clients {
		clients[i] = p.dial()
		p.ok(clients[i].occupy())
	}
	p.awaitStates(0, 0, room)
	for _, c := range clients {
		p.ok(c.freeAgain())
	}
	p.awaitStates(room, 0, 0)
	served, want := map[string]int{}, map[string]int{}
	for _, c := range clients {
		served[p.language(c)]++
	}
	for _, s := range services {
		want[languageOf(s)] += capacity
	}
	if !maps.Equal(served, want) {
		t.Errorf("clients were served by %v; want %v", served, want)
	}

	for left := services; len(left) > 1; {
		p.docker("stop", p.containers(left[len(left)-1])[0])
		left = left[:len(left)-1]
		for _, c := range clients {
			if by := p.language(c); !slices.ContainsFunc(left, func(s string) bool { return languageOf(s) == by }) {
				t.Fatalf("served by %s, while there is %v", by, left)
			}
		}
	}
	p.awaitStates(room, 0, 0)
	checkKept(t, p.counts(), room)
}

// applications are the services of the project that serve requests.
func (p *project) applications() []string {
	p.t.Helper()
	services := strings.Fields(p.compose("config", "--services"))
	services = slices.DeleteFunc(services, func(s string) bool { return s == "sidecar" || s == "grpcurl" })
	if len(services) < 2 {
		p.t.Fatalf("the applications are %v", services)
	}
	return services
}

// languageOf is what a service says it is written in.
func languageOf(service string) string {
	if service == "app" {
		return "python"
	}
	return service
}

// awaitRoom waits until the hosts take so many requests at once.
func (p *project) awaitRoom(want uint32) {
	p.t.Helper()
	p.eventually(func() error {
		got := uint32(0)
		for _, h := range p.hosts() {
			got += h.Capacity
		}
		if got != want {
			return fmt.Errorf("there is room for %d requests; want %d", got, want)
		}
		return nil
	})
}

// language is what the application that serves a client now is written in.
func (p *project) language(c *client) string {
	p.t.Helper()
	a := p.get(c, "/")
	_, rest, found := strings.Cut(a.body, "hello from ")
	language := rest[:max(0, strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' }))]
	if a.status != 200 || a.last || !found || language == "" {
		p.t.Fatalf("the greeting is %+v", a)
	}
	return language
}
