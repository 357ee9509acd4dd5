package proxy

import (
	"testing"
	"time"
)

func TestPulseFallsAfterFallChecks(t *testing.T) {
	now := time.Unix(1000, 0)
	p := pulse{health: Up}
	for i, want := range []Cause{"", "", CauseCheck} {
		if got := p.missed(now, now, "silent", 3); got != want || p.health != Doubt {
			t.Fatalf("failed check %d: cause %q, health %s", i+1, got, p.health)
		}
	}
}

func TestPulseDoesNotHearACheckOlderThanTheDoubt(t *testing.T) {
	now := time.Unix(1000, 0)
	p := pulse{health: Up}
	p.suspect(now, "stuck")
	if got := p.missed(now, now.Add(-time.Second), "silent", 3); got != "" {
		t.Errorf("an old check agreed: %q", got)
	}
	if got := p.missed(now, now, "silent", 3); got != CauseTimeout {
		t.Errorf("cause %q", got)
	}
}

func TestHoldDoublesUntilItIsForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	var h hold
	for _, want := range []time.Duration{30, 60, 120, 240, 480, 600, 600} {
		h.leave(now)
		if got := h.until.Sub(now); got != want*time.Second {
			t.Fatalf("held for %v, want %v", got, want*time.Second)
		}
	}
	h.wasUp(9 * time.Minute)
	if !h.holds(now) {
		t.Error("forgotten too soon")
	}
	h.wasUp(10 * time.Minute)
	if h.leave(now); h.until.Sub(now) != 30*time.Second {
		t.Errorf("not forgotten: %v", h.until.Sub(now))
	}
}
