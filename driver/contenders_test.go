package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix" //nolint:depguard // the standard library has no clock that processes share and nobody sets

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// contender marks a copy of the test binary that is one of many hosts; its value is an [orders]
// in JSON.
const contender = "DRIVER_TEST_CONTENDER"

// orders are what a contender is to do.
type orders struct {
	Shared, Data string
	Host, Names  int
	Rounds       int
	Seed         uint64
	Deeds        []string // one of them each round, on one of the names
	InTurn       bool     // all of them on the first name, then on the next
	// Server has the shared directory and the leases of exclusive volumes; without one the volumes
	// are shared.
	Server netip.AddrPort
	// Dies is after the start, in whatever the host does then, DiesHolding in the first use of an exclusive
	// volume that is begun after that time. Zero: never.
	Dies, DiesHolding time.Duration
}

func (o orders) mortal() bool { return o.Dies > 0 || o.DiesHolding > 0 }

// deed is one call of a contender, or one use of a volume, as it prints it.
type deed struct {
	Host int    `json:"host"`
	What string `json:"what"` // create, remove, put, look; of exclusive volumes take, give; die
	Name string `json:"name"`
	// Token is the file that a put has left in the volume, Seen are those that a look has found.
	Token string   `json:"token,omitempty"`
	Seen  []string `json:"seen,omitempty"`
	// Outcome is "" if it was done, absent if there was no such volume, refused if another host
	// had the volume in hands, lost if the host died over it, else an error that nobody expects.
	Outcome string `json:"outcome,omitempty"`
	// Called and Returned are times of the machine's monotonic clock, in nanoseconds. What has not
	// returned yet is printed as well.
	Called   int64 `json:"called"`
	Returned int64 `json:"returned"`
}

const (
	absent  = "absent"
	refused = "refused"
	lost    = "lost"
)

// TestHostsContendForTheSameNames has many processes, each with a driver and a data
// directory of its own, create, write, read and remove the same few volumes as fast as they can.
// What they saw must be what some order of their calls, one at a time, would have shown them: no
// file that a volume should have is lost, and none comes back after a removal.
func TestHostsContendForTheSameNames(t *testing.T) {
	all := []string{"create", "create", "remove", "put", "put", "look"}
	for _, row := range []struct {
		name                 string
		hosts, names, rounds int
		deeds                []string
	}{
		{"a hundred at once", 100, 5, 5, all},
		{"a few for one name", 6, 1, 15, all},
		{"a few that only make and remove it", 8, 1, 20, []string{"create", "remove"}},
		{"a few that only make and remove several", 8, 4, 20, []string{"create", "remove"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			shared := t.TempDir()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			histories := make([][]deed, row.hosts)
			var group sync.WaitGroup
			for n := range histories {
				o := orders{Shared: shared, Data: t.TempDir(), Host: n, Names: row.names, Rounds: row.rounds, Seed: seed, Deeds: row.deeds}
				group.Go(func() { histories[n] = runContender(t, o) })
			}
			group.Wait()
			all := slices.Concat(histories...)
			tellOutcomes(t, all, row.deeds)
			wantLinearizable(t, all)
			for n := range row.names {
				wantWhole(t, shared, volumeName(n))
			}
		})
	}
}

func runContender(t *testing.T, o orders) []deed {
	text, err := json.Marshal(o)
	if err != nil {
		t.Error(err)
		return nil
	}
	command := exec.CommandContext(t.Context(), "/proc/self/exe")
	command.Env = append(os.Environ(), contender+"="+string(text), "GOMAXPROCS=1")
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := command.Output()
	if ended := command.ProcessState; err != nil && (!o.mortal() || ended == nil || ended.ExitCode() >= 0) {
		t.Errorf("host %d: %v", o.Host, err)
	}
	history, open, err := readHistory(string(out))
	switch end := now(); {
	case err != nil:
		t.Errorf("host %d: %v", o.Host, err)
	case open.What == "die":
		for name := range o.Names {
			open.Name, open.Returned = volumeName(name), end
			history = append(history, open)
		}
	case open.What != "" || len(history) < o.Rounds:
		t.Errorf("host %d tells of %d calls in %d rounds, the last of them %+v", o.Host, len(history), o.Rounds, open)
	}
	return history
}

// readHistory returns what a contender has done, and what it had begun when it ended. What it was at when
// it died may yet have been done.
func readHistory(text string) (history []deed, open deed, err error) {
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var d deed
		switch err := decoder.Decode(&d); {
		case errors.Is(err, io.EOF):
			return history, open, nil
		case err != nil:
			return history, open, err
		case d.Returned > 0:
			history = append(history, d)
			open = deed{}
			continue
		case open.What != "":
			open.Outcome, open.Returned = lost, math.MaxInt64
			history = append(history, open)
		}
		open = d
	}
}

func volumeName(n int) string { return fmt.Sprint("v", n) }

// contend is the main function of a contender.
func contend(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	c, err := startContender(o)
	if err != nil {
		return err
	}
	if o.Dies > 0 {
		time.AfterFunc(o.Dies, c.die)
	}
	begun := time.Now()
	random := rand.New(rand.NewPCG(o.Seed, uint64(o.Host)))
	for round := range o.Rounds {
		name, what := random.IntN(o.Names), random.IntN(len(o.Deeds))
		if o.InTurn {
			name, what = round/len(o.Deeds), round%len(o.Deeds)
		}
		c.diesHolding = o.DiesHolding > 0 && time.Since(begun) > o.DiesHolding
		if err := c.round(o.Deeds[what], volumeName(name), fmt.Sprint(o.Host, "-", round)); err != nil {
			return err
		}
	}
	return c.Close()
}

// now is the same for all processes. Whoever sets the time of day leaves the order of their calls as it is.
func now() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

func startContender(o orders) (*contending, error) {
	options := hostOptions(o.Shared, o.Data, "")
	c := &contending{orders: o, out: json.NewEncoder(os.Stdout)}
	if o.Server.IsValid() {
		onServer(o.Server, &faults{export: o.Shared})(&options)
		c.options = opts("access=exclusive")
	}
	options.Host = fmt.Sprint("host-", o.Host)
	var err error
	if c.Driver, err = driver.New(options, silence()); err == nil {
		c.Start()
	}
	return c, err
}

// contending is a contender's driver.
type contending struct {
	*driver.Driver
	orders
	options     map[string]string // of what it creates
	diesHolding bool              // in this round

	mu  sync.Mutex // guards the following field
	out *json.Encoder
}

// die tells the time and ends the process; nothing is told after it.
func (c *contending) die() {
	c.mu.Lock()
	_ = c.out.Encode(deed{Host: c.Host, What: "die", Called: now()})
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// tell prints that a deed is begun, and how it ended.
func (c *contending) tell(one deed, call func(*deed) error) (outcomeOf string, err error) {
	one.Host, one.Called = c.Host, now()
	if err := c.print(one); err != nil {
		return "", err
	}
	one.Outcome = outcome(call(&one))
	one.Returned = now()
	return one.Outcome, c.print(one)
}

func (c *contending) print(one deed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Encode(one)
}

func (c *contending) round(what, name, id string) error {
	if what == "hold" {
		return c.hold(name, id)
	}
	_, err := c.tell(deed{What: what, Name: name}, func(one *deed) error { return c.do(one, id) })
	return err
}

func (c *contending) do(one *deed, id string) error {
	ctx := context.Background()
	switch one.What {
	case "create":
		return c.Create(ctx, one.Name, c.options)
	case "remove":
		return c.Remove(ctx, one.Name)
	}
	if err := c.Mount(ctx, one.Name, id, func(string) error { return nil }); err != nil {
		return err
	}
	err := c.use(one, id)
	if unmountErr := c.Unmount(one.Name, id); unmountErr != nil {
		return unmountErr
	}
	return err
}

// use is what a container does with a volume.
func (c *contending) use(one *deed, id string) (err error) {
	point := filepath.Join(c.Data, "volumes", one.Name)
	if one.What == "put" {
		one.Token = id
		err = os.WriteFile(filepath.Join(point, id), nil, 0o600)
	} else {
		one.Seen, err = filesIn(point)
	}
	if err != nil {
		return fmt.Errorf("in the container: %w", err)
	}
	return nil
}

func filesIn(dir string) (all []string, err error) {
	entries, err := os.ReadDir(dir) // sorted
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, err
}

// outcome is what an error means to a contender. What another host may cause is no defect.
func outcome(err error) string {
	var known *driver.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &known) && known.Kind == driver.NotFound:
		return absent
	}
	for _, words := range []string{
		"is being removed", "is gone", "another host may have removed it", "finish its removal first",
		"uses it", "has it for itself", "removed it meanwhile", "has made it meanwhile", "has changed it meanwhile", "had it stay",
	} {
		if strings.Contains(err.Error(), words) {
			return refused
		}
	}
	return err.Error()
}

// tellOutcomes fails if nothing of a kind that is to work was done: where all is refused, nothing is shown.
func tellOutcomes(t *testing.T, all []deed, toWork []string) {
	t.Helper()
	counted := map[string]int{}
	for _, d := range all {
		counted[strings.TrimSpace(d.What+" "+d.Outcome)]++
		if d.Outcome != "" && d.Outcome != refused && d.Outcome != lost && (d.Outcome != absent || d.What == "create" || d.What == "remove") {
			t.Errorf("%s of %s on host %d: %s", d.What, d.Name, d.Host, d.Outcome)
		}
	}
	t.Log(counted)
	for _, what := range toWork {
		if counted[what] == 0 {
			t.Errorf("no %s was done", what)
		}
	}
}

// wantWhole checks that a volume on which nobody is at work has a record that says so and a
// directory, or neither.
func wantWhole(t *testing.T, shared, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shared, ".docker-volume-efs/volumes", name+".json"))
	dir := exists(t, filepath.Join(shared, name))
	if errors.Is(err, os.ErrNotExist) {
		if dir {
			t.Errorf("%s has a directory and no record", name)
		}
		return
	}
	var record struct {
		State string `json:"state"`
		Made  bool   `json:"made"`
	}
	if err := errors.Join(err, json.Unmarshal(text, &record)); err != nil {
		t.Fatal(err)
	}
	if record.State != "ready" || !record.Made || !dir {
		t.Errorf("%s has a directory: %v, and this record: %s", name, dir, text)
	}
}
