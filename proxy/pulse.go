package proxy

import "time"

// pulse is what is known of one mount target's life: a state machine without
// clock, locks or network. It gives verdicts; the [Group] carries them out,
// since the last usable target is never down.
type pulse struct {
	health Health
	since  time.Time
	why    string

	rises, falls int
	// suspected is when traffic stopped getting through; zero if it does. One
	// check that began later and fails agrees with it.
	suspected time.Time

	rtt              time.Duration
	checked          time.Time
	checks, failures uint64
}

func (p *pulse) become(now time.Time, health Health, why string) {
	if p.health != health {
		p.health, p.since, p.rises = health, now, 0
	}
	p.why = why
}

// passed notes an answered check.
func (p *pulse) passed(now time.Time, rtt time.Duration, rise int) {
	p.checks++
	p.checked = now
	if p.rtt == 0 {
		p.rtt = rtt
	}
	p.rtt += (rtt - p.rtt) / 8 // as TCP smooths it
	p.falls, p.suspected = 0, time.Time{}
	if p.health == Down {
		if p.rises++; p.rises < rise {
			return
		}
	}
	p.become(now, Up, "")
}

// missed notes a failed check that began at the given time. If that is enough
// to leave the target, it returns the cause and leaves the health alone.
func (p *pulse) missed(now, began time.Time, why string, fall int) Cause {
	p.checks++
	p.failures++
	p.checked = now
	p.rises = 0
	p.falls++
	switch {
	case p.health == Down:
		p.why = why
		return ""
	case !p.suspected.IsZero() && !began.Before(p.suspected):
		return CauseTimeout
	case p.falls >= fall:
		return CauseCheck
	}
	p.become(now, Doubt, why)
	return ""
}

// suspect notes that traffic does not get through, and reports whether that is
// news: said again it must not restart the check that decides.
func (p *pulse) suspect(now time.Time, why string) bool {
	if p.health == Down || !p.suspected.IsZero() {
		return false
	}
	p.suspected = now
	p.become(now, Doubt, why)
	return true
}

// answered notes that traffic gets through. What is down has to answer checks.
func (p *pulse) answered(now time.Time) {
	if p.health == Down {
		return
	}
	p.falls, p.suspected = 0, time.Time{}
	p.become(now, Up, "")
}

// fallen marks the target as down.
func (p *pulse) fallen(now time.Time, why string) {
	p.suspected = time.Time{}
	p.become(now, Down, why)
}
