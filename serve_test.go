package main

import (
	"slices"
	"testing"
)

// inventory is what a parent keeps.
type inventory []string

func (i *inventory) Names() []string { return slices.Clone(*i) }

func (i *inventory) Drop(name string) error {
	*i = slices.DeleteFunc(*i, func(one string) bool { return one == name })
	return nil
}

func TestWorkerThatCannotStartEndsTheParentUnlessItKeepsRelays(t *testing.T) {
	for _, row := range []struct {
		name       string
		kept, left inventory
	}{
		{"without relays", inventory{pluginSocket, controlSocket}, inventory{}},
		{"with a status page", inventory{pluginSocket, controlSocket, "http/127.0.0.1:9199"}, inventory{}},
		{"with a relay, which containers use", inventory{pluginSocket, controlSocket, "relay/web"}, inventory{pluginSocket, controlSocket, "relay/web"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := dropSockets(&row.kept); err != nil || !slices.Equal(row.kept, row.left) {
				t.Errorf("%v; left are %v, want %v", err, row.kept, row.left)
			}
		})
	}
}
