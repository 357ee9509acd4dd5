package doctor_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

// told runs an examination and returns its findings, one line each.
func told(ctx context.Context, examination func(context.Context, *doctor.Runner)) []string {
	var lines []string
	var left sync.WaitGroup
	defer left.Wait()
	run := &doctor.Runner{Go: left.Go, Report: func(f doctor.Finding) {
		lines = append(lines, fmt.Sprintf("%s %s: %s after %v", f.Outcome, f.Check, f.Found, f.Took))
	}}
	examination(ctx, run)
	return lines
}

// asked is a check that takes a while and then has this finding.
func asked(ctx context.Context, run *doctor.Runner, c doctor.Check, takes time.Duration, f doctor.Finding) doctor.Finding {
	_, found := doctor.Ask(ctx, run, c, func(context.Context) (struct{}, doctor.Finding) {
		time.Sleep(takes)
		return struct{}{}, f
	})
	return found
}

func TestChecks(t *testing.T) {
	fine, bad := doctor.Fine("fine"), doctor.Fail("broken", "", "")
	for _, row := range []struct {
		name string
		ask  func(context.Context, *doctor.Runner)
		want []string
	}{
		{"are told in their order, with how long they took", func(ctx context.Context, run *doctor.Runner) {
			asked(ctx, run, doctor.Check{Name: "a"}, time.Second, fine)
			asked(ctx, run, doctor.Check{Name: "b"}, 0, doctor.Warn("slow", "", ""))
		}, []string{"ok a: fine after 1s", "warning b: slow after 0s"}},
		{"are skipped with the first cause if what they need failed", func(ctx context.Context, run *doctor.Runner) {
			a := asked(ctx, run, doctor.Check{Name: "a"}, 0, bad)
			b := asked(ctx, run, doctor.Check{Name: "b", Needs: []doctor.Finding{fine, a}}, 0, fine)
			asked(ctx, run, doctor.Check{Name: "c", Needs: []doctor.Finding{b}}, 0, fine)
		}, []string{"failed a: broken after 0s", "skipped b: not asked: a failed after 0s", "skipped c: not asked: a failed after 0s"}},
		{"are asked after a warning", func(ctx context.Context, run *doctor.Runner) {
			asked(ctx, run, doctor.Check{Name: "b", Needs: []doctor.Finding{doctor.Warn("", "", "")}}, 0, fine)
		}, []string{"ok b: fine after 0s"}},
		{"that hang are left behind at their limit, and the next is asked", func(ctx context.Context, run *doctor.Runner) {
			asked(ctx, run, doctor.Check{Name: "a", Limit: 2 * time.Second}, time.Hour, fine)
			asked(ctx, run, doctor.Check{Name: "b"}, 0, fine)
		}, []string{"failed a: nothing within 2s after 2.25s", "ok b: fine after 0s"}},
		{"have a limit that nobody gave them", func(ctx context.Context, run *doctor.Runner) {
			asked(ctx, run, doctor.Check{Name: "a"}, time.Hour, fine)
		}, []string{"failed a: nothing within 10s after 10.25s"}},
		{"may say themselves what they waited for", func(ctx context.Context, run *doctor.Runner) {
			doctor.Ask(ctx, run, doctor.Check{Name: "a", Limit: time.Second}, func(ctx context.Context) (struct{}, doctor.Finding) {
				<-ctx.Done()
				return struct{}{}, doctor.Fail("silent", "", "")
			})
		}, []string{"failed a: silent after 1s"}},
		{"that panic cost themselves", func(ctx context.Context, run *doctor.Runner) {
			doctor.Ask(ctx, run, doctor.Check{Name: "a"}, func(context.Context) (struct{}, doctor.Finding) { panic("a bug") })
			asked(ctx, run, doctor.Check{Name: "b"}, 0, fine)
		}, []string{"failed a: internal error after 0s", "ok b: fine after 0s"}},
		{"are not asked when nobody listens any more", func(ctx context.Context, run *doctor.Runner) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			asked(ctx, run, doctor.Check{Name: "a"}, 0, fine)
		}, nil},
		{"are one line each, whatever a server says", func(ctx context.Context, run *doctor.Runner) {
			asked(ctx, run, doctor.Check{Name: "a"}, 0, doctor.Fine("two\nlines\x1b[31m"))
		}, []string{"ok a: two lines?[31m after 0s"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := told(t.Context(), row.ask)
				if strings.Join(got, "\n") != strings.Join(row.want, "\n") {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(row.want, "\n"))
				}
			})
		})
	}
}

func TestAValueIsTheQuestions(t *testing.T) {
	var left sync.WaitGroup
	run := &doctor.Runner{Go: left.Go, Report: func(doctor.Finding) {}}
	if got, _ := doctor.Ask(t.Context(), run, doctor.Check{}, func(context.Context) (int, doctor.Finding) { return 7, doctor.Fine("") }); got != 7 {
		t.Errorf("it is %d", got)
	}
	left.Wait()
}
