package doctor

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// DefaultLimit is how long a check may take that says nothing else.
const DefaultLimit = 10 * time.Second

// grace is how long a check whose limit has passed may take to say what it was waiting for:
// it knows that better than the clock.
const grace = 250 * time.Millisecond

// Check is a question.
type Check struct {
	Name               string
	FileSystem, Target string
	// Limit bounds it; zero is [DefaultLimit].
	Limit time.Duration
	// Needs are the findings that it builds on. If one of them failed or was skipped, so is
	// this check.
	Needs []Finding
}

// Runner asks checks, one after the other.
type Runner struct {
	// Report is told each finding as soon as there is one.
	Report func(Finding)
	// Go runs a check in a goroutine. One that hears no context is left behind; whoever gave
	// Go waits for it.
	Go func(func())
	// Log is told of a check that panics; nil: nobody is.
	Log func(format string, args ...any)
}

// Ask asks one question and reports what it found. The value is the question's, or zero if
// it was left behind or not asked. When the context has ended nothing is asked and
// nothing reported: nobody listens any more.
func Ask[T any](ctx context.Context, r *Runner, c Check, question func(context.Context) (T, Finding)) (T, Finding) {
	type answer struct {
		value T
		Finding
	}
	var none T
	if ctx.Err() != nil {
		return none, Finding{Check: c.Name, Outcome: Skipped}
	}
	begun := time.Now()
	tell := func(a answer) (T, Finding) {
		f := a.Finding
		f.Check, f.FileSystem, f.Target, f.Took = c.Name, c.FileSystem, c.Target, time.Since(begun)
		f.Found, f.Why, f.Do = terminal.Plain(f.Found), terminal.Plain(f.Why), terminal.Plain(f.Do)
		r.Report(f)
		return a.value, f
	}
	if because, missing := c.missing(); missing {
		return tell(answer{none, Finding{Outcome: Skipped, Found: because}})
	}
	limit := cmp.Or(c.Limit, DefaultLimit)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers := make(chan answer, 1)
	r.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				if r.Log != nil {
					r.Log("panic: %v\n%s", p, debug.Stack())
				}
				answers <- answer{none, Fail("internal error", "the check itself is at fault", "report it, with the plugin's log")}
			}
		}()
		value, found := question(limited)
		answers <- answer{value, found}
	})
	select {
	case a := <-answers:
		return tell(a)
	case <-limited.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case a := <-answers:
		return tell(a)
	case <-late.C:
	}
	return tell(answer{none, Fail(fmt.Sprintf("nothing within %v", limit), "whatever it asks does not answer", "see what failed before it; else report it, with the plugin's log")})
}

// missing tells why a check cannot be asked.
func (c Check) missing() (because string, missing bool) {
	for _, need := range c.Needs {
		switch {
		case need.Usable():
		case need.Outcome == Skipped:
			return need.Found, true // the first cause, not a chain of effects
		default:
			return "not asked: " + need.name() + " failed", true
		}
	}
	return "", false
}
