package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
)

func TestTheWorkersEndIsPassedOn(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(*parent)
		want int
	}{
		{"exit status 0", func(p *parent) { p.tell("exit 0") }, 0},
		{"death by SIGTERM", func(p *parent) { p.kill(p.command.Process.Pid, unix.SIGTERM) }, 143},
		{"exit status after SIGTERM", func(p *parent) {
			p.ask("trap", "trapped")
			p.kill(p.command.Process.Pid, unix.SIGTERM)
		}, 7},
		{"exit status after SIGINT to the whole process group", func(p *parent) {
			p.ask("trap", "trapped")
			p.kill(-p.command.Process.Pid, unix.SIGINT)
		}, 7},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := start(t, "serving")
			p.ready()
			row.end(p)
			if got := p.ends(); got != row.want {
				t.Fatalf("the parent's exit status is %d, want %d", got, row.want)
			}
			gone(t, p.worker)
		})
	}
	t.Run("any status while nothing is kept", func(t *testing.T) {
		if got := start(t, "bare").ends(); got != 3 {
			t.Fatalf("the parent's exit status is %d, want 3", got)
		}
	})
}

func TestACrashIsAnyOtherEnd(t *testing.T) {
	p := start(t, "restless")
	p.ready()
	for _, end := range []func(){
		func() { p.tell("exit 3") },
		func() { p.kill(p.worker, unix.SIGKILL) },
		func() { p.kill(p.worker, unix.SIGTERM) }, // not from the parent
	} {
		before := p.worker
		end()
		p.ready()
		if p.worker == before {
			t.Fatal("no other worker")
		}
	}
}

// The kernel cannot end a worker that waits for what it served itself.
func TestAWorkerThatCannotEndIsFollowedByTheNext(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	stuck := p.worker
	if got := p.ask("beside", "beside"); !slices.Equal(got, []string{"false"}) {
		t.Fatalf("the first worker is beside another: %v", got)
	}
	begun := time.Now()
	p.tell("undie")
	p.ready()
	t.Logf("the next worker is there after %v", time.Since(begun))
	if p.worker == stuck {
		t.Fatal("no other worker")
	}
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Fatalf("kept: %v", got)
	}
	if got := p.ask("beside", "beside"); !slices.Equal(got, []string{"true"}) {
		t.Errorf("the next one is not told that it is beside the first: %v", got)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", stuck)); err != nil {
		t.Fatalf("it has ended: %v", err)
	}
	p.kill(stuck, unix.SIGKILL)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", stuck)); errors.Is(err, os.ErrNotExist) {
			p.tell("exit 0")
			if got := p.ends(); got != 0 {
				t.Fatalf("the parent's exit status is %d", got)
			}
			return
		}
	}
	t.Fatal("nobody waits for it")
}

// Otherwise a terminal would signal it, and then the parent once more.
func TestAWorkerIsNotInItsParentsProcessGroup(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	group, err := unix.Getpgid(p.worker)
	if err != nil || group == p.command.Process.Pid {
		t.Fatalf("the worker is in group %d, %v", group, err)
	}
}

func TestSIGHUPIsPassedOnAndEndsNothing(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	p.kill(p.command.Process.Pid, unix.SIGHUP)
	p.await("hup")
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Fatalf("kept: %v", got)
	}
}

func TestSIGTERMEndsAParentThatHasNoWorker(t *testing.T) {
	p := start(t, "crashing")
	for range 8 {
		p.await("crash")
	}
	time.Sleep(100 * time.Millisecond) // into a pause of 1 s
	p.kill(p.command.Process.Pid, unix.SIGTERM)
	for line := range p.lines {
		if strings.HasPrefix(line, "crash") {
			t.Error("another worker was started")
		}
	}
	if got := p.ends(); got != 0 {
		t.Fatalf("exit status %d", got)
	}
}

func TestAWorkerThatKeepsCrashingIsStartedLessAndLessOften(t *testing.T) {
	p := start(t, "crashing")
	var starts []int64
	for range 7 {
		at, err := strconv.ParseInt(p.await("crash")[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, at)
	}
	for i, atLeast := range []int64{0, 50, 100, 200, 400, 800} {
		if pause := starts[i+1] - starts[i]; pause < atLeast {
			t.Errorf("start %d came %d ms after the one before, want %d or more", i+1, pause, atLeast)
		}
	}
}

func TestPausesGrowWhileCrashesFollowEachOther(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, row := range []struct {
		name          string
		crashes, want []time.Duration
	}{
		{"the first crash", []time.Duration{0}, []time.Duration{0}},
		{"crashes far apart", []time.Duration{0, 5 * s, 10 * s}, []time.Duration{0, 0, 0}},
		{
			"crashes close together",
			[]time.Duration{0, s, 2 * s, 3 * s, 4 * s, 5 * s, 6 * s, 7 * s},
			[]time.Duration{0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, s, s},
		},
		{"quiet, and another", []time.Duration{0, s, 2 * s, 7 * s, 8 * s}, []time.Duration{0, 50 * ms, 100 * ms, 0, 50 * ms}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := keeper.Pauses(row.crashes...); !slices.Equal(got, row.want) {
				t.Fatalf("pauses %v, want %v", got, row.want)
			}
		})
	}
}
