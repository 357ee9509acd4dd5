package proxy

import (
	"errors"
	"time"
)

// Knobs say how mount targets are checked; the names are HAProxy's. Zero or
// less means the default.
type Knobs struct {
	// Inter is the time between two checks of a target that answers; default 5 s.
	Inter time.Duration
	// FastInter is the same for a target in doubt, and for all of them when none
	// answers; default 0.5 s.
	FastInter time.Duration
	// DownInter is the same for a target that is down; default 5 s.
	DownInter time.Duration
	// Timeout is how long a check may take; default 3 s. In doubt it is 1 s at most.
	Timeout time.Duration
	// Rise is how many checks in a row bring a target up again; default 2.
	Rise int
	// Fall is how many failed checks in a row bring it down; default 3.
	Fall int
}

// doubtTimeout bounds a check while there is doubt: long enough for an answer
// from another continent.
const doubtTimeout = time.Second

func (k Knobs) withDefaults() Knobs {
	return Knobs{
		Inter:     positive(k.Inter, 5*time.Second),
		FastInter: positive(k.FastInter, 500*time.Millisecond),
		DownInter: positive(k.DownInter, 5*time.Second),
		Timeout:   positive(k.Timeout, 3*time.Second),
		Rise:      positive(k.Rise, 2),
		Fall:      positive(k.Fall, 3),
	}
}

func positive[T int | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}

// ReturnPolicy says whether a file system goes back to its home zone.
type ReturnPolicy int

const (
	// Sticky stays where it is until that fails or is drained: each move may cost
	// locks if the mount targets do not share their clients' state.
	Sticky ReturnPolicy = iota
	// ReturnHome goes back when the home zone was up for 10 minutes, at most once
	// an hour; from a backup, to whatever is none.
	ReturnHome
)

// String is what [ParseReturnPolicy] takes.
func (r ReturnPolicy) String() string {
	if r == ReturnHome {
		return "home"
	}
	return "sticky"
}

// ParseReturnPolicy takes "sticky" or "home".
func ParseReturnPolicy(text string) (ReturnPolicy, error) {
	for _, policy := range []ReturnPolicy{Sticky, ReturnHome} {
		if text == policy.String() {
			return policy, nil
		}
	}
	return Sticky, errors.New("allowed: sticky, home")
}

const (
	homeUpFor     = 10 * time.Minute
	homeAtMostPer = time.Hour
)
