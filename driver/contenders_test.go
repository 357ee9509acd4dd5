package driver_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
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
	Deeds        []string // one of them each round
}

// deed is one call of a contender, or one use of a volume, as it prints it.
type deed struct {
	Host int    `json:"host"`
	What string `json:"what"` // create, remove, put, look
	Name string `json:"name"`
	// Token is the file that a put has left in the volume, Seen are those that a look has found.
	Token string   `json:"token,omitempty"`
	Seen  []string `json:"seen,omitempty"`
	// Outcome is "" if it was done, absent if there was no such volume, refused if another host
	// had the volume in hands, else an error that nobody expects.
	Outcome string `json:"outcome,omitempty"`
	// Called and Returned are times of the machine's monotonic clock, in nanoseconds.
	Called   int64 `json:"called"`
	Returned int64 `json:"returned"`
}

const (
	absent  = "absent"
	refused = "refused"
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
			tellOutcomes(t, all)
			wantLinearizable(t, all)
			for n := range row.names {
				wantWhole(t, shared, fmt.Sprint("v", n))
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
	if err != nil {
		t.Errorf("host %d: %v", o.Host, err)
	}
	var history []deed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var d deed
		if err := decoder.Decode(&d); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Errorf("host %d: %v", o.Host, err)
			break
		}
		history = append(history, d)
	}
	if len(history) != o.Rounds {
		t.Errorf("host %d tells of %d calls, not of %d", o.Host, len(history), o.Rounds)
	}
	return history
}

// contend is the main function of a contender.
func contend(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	d, err := startContender(o)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(o.Seed, uint64(o.Host)))
	encoder := json.NewEncoder(os.Stdout)
	for round := range o.Rounds {
		one := deed{
			Host: o.Host, Name: fmt.Sprint("v", random.IntN(o.Names)), Called: now(),
			What: o.Deeds[random.IntN(len(o.Deeds))],
		}
		id := fmt.Sprint(o.Host, "-", round)
		one.Outcome = outcome(d.do(&one, id))
		one.Returned = now()
		if err := encoder.Encode(one); err != nil {
			return err
		}
	}
	return d.Close()
}

// now is the same for all processes. Whoever sets the time of day leaves the order of their calls as it is.
func now() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

func startContender(o orders) (contending, error) {
	c := contending{data: o.Data}
	var err error
	c.Driver, err = driver.New(hostOptions(o.Shared, o.Data, fmt.Sprint("host-", o.Host)), silence())
	if err == nil {
		c.Start()
	}
	return c, err
}

// contending is a contender's driver.
type contending struct {
	*driver.Driver
	data string
}

func (c contending) do(one *deed, id string) error {
	ctx := context.Background()
	switch one.What {
	case "create":
		return c.Create(ctx, one.Name, nil)
	case "remove":
		return c.Remove(ctx, one.Name)
	}
	point := filepath.Join(c.data, "volumes", one.Name)
	if err := c.Mount(ctx, one.Name, id, func(string) error { return nil }); err != nil {
		return err
	}
	var err error
	if one.What == "put" {
		one.Token = id
		err = os.WriteFile(filepath.Join(point, id), nil, 0o600)
	} else {
		one.Seen, err = filesIn(point)
	}
	if unmountErr := c.Unmount(one.Name, id); unmountErr != nil {
		return unmountErr
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
		"uses it", "removed it meanwhile", "has made it meanwhile", "has changed it meanwhile", "had it stay",
	} {
		if strings.Contains(err.Error(), words) {
			return refused
		}
	}
	return err.Error()
}

func tellOutcomes(t *testing.T, all []deed) {
	t.Helper()
	counted := map[string]int{}
	for _, d := range all {
		counted[strings.TrimSpace(d.What+" "+d.Outcome)]++
		if d.Outcome != "" && d.Outcome != refused && (d.Outcome != absent || d.What == "create" || d.What == "remove") {
			t.Errorf("%s of %s on host %d: %s", d.What, d.Name, d.Host, d.Outcome)
		}
	}
	t.Log(counted)
}

// volumeModel is a volume as Docker's users see it: it is there, with files, or it is not.
var volumeModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := map[string][]porcupine.Operation{}
		for _, o := range history {
			name := o.Input.(deed).Name
			byName[name] = append(byName[name], o)
		}
		var all [][]porcupine.Operation
		for _, one := range byName {
			all = append(all, one)
		}
		return all
	},
	Init: func() any { return noVolume },
	Step: func(state, input, _ any) (bool, any) { return step(state.(string), input.(deed)) },
	DescribeOperation: func(input, _ any) string {
		d := input.(deed)
		return fmt.Sprint(d.What, " ", d.Token, d.Seen, " ", d.Outcome)
	},
}

// A state is the volume's files, each with a space behind it, or noVolume.
const noVolume = "none"

func step(state string, d deed) (possible bool, next string) {
	switch {
	case d.Outcome == absent:
		return state == noVolume, state
	case d.Outcome != "":
		return true, state
	case d.What == "create" && state == noVolume:
		return true, ""
	case d.What == "create":
		return true, state
	case d.What == "remove":
		return true, noVolume
	case state == noVolume:
		return false, state
	case d.What == "put":
		files := append(strings.Fields(state), d.Token)
		slices.Sort(files)
		return true, strings.Join(files, " ") + " "
	default:
		return slices.Equal(strings.Fields(state), d.Seen), state
	}
}

func wantLinearizable(t *testing.T, all []deed) {
	t.Helper()
	var history []porcupine.Operation
	for _, d := range all {
		history = append(history, porcupine.Operation{ClientId: d.Host, Input: d, Call: d.Called, Return: d.Returned})
	}
	switch result, info := porcupine.CheckOperationsVerbose(volumeModel, history, 5*time.Minute); result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Error("no answer within 5 minutes whether the calls were linearizable")
	case porcupine.Illegal:
		page, err := os.Create(filepath.Join(t.ArtifactDir(), "contenders.html"))
		if err == nil {
			err = errors.Join(porcupine.Visualize(volumeModel, info, page), page.Close())
		}
		slices.SortFunc(all, func(a, b deed) int { return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Called, b.Called)) })
		for _, d := range all {
			t.Logf("%+v", d)
		}
		t.Errorf("no order of the calls shows what they have shown: %v; see %s", err, page.Name())
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

// TestTheModelOfAVolume shows that the model that judges the contenders can say no.
func TestTheModelOfAVolume(t *testing.T) {
	for _, row := range []struct {
		name    string
		history []deed
		want    porcupine.CheckResult
	}{
		{"a file is there after it was put", []deed{{What: "create"}, {What: "put", Token: "a"}, {What: "look", Seen: []string{"a"}}}, porcupine.Ok},
		{"a file is lost", []deed{{What: "create"}, {What: "put", Token: "a"}, {What: "look"}}, porcupine.Illegal},
		{"a file comes back", []deed{{What: "create"}, {What: "put", Token: "a"}, {What: "remove"}, {What: "create"}, {What: "look", Seen: []string{"a"}}}, porcupine.Illegal},
		{"a volume is lost", []deed{{What: "create"}, {What: "look", Outcome: absent}}, porcupine.Illegal},
		{"a volume comes from nowhere", []deed{{What: "put", Token: "a"}}, porcupine.Illegal},
		{"a volume comes back", []deed{{What: "create"}, {What: "remove"}, {What: "look"}}, porcupine.Illegal},
		{"a refusal changes nothing", []deed{{What: "create"}, {What: "remove", Outcome: refused}, {What: "look"}}, porcupine.Ok},
	} {
		t.Run(row.name, func(t *testing.T) {
			var history []porcupine.Operation
			for n, d := range row.history {
				d.Name = "data"
				history = append(history, porcupine.Operation{Input: d, Call: int64(2 * n), Return: int64(2*n + 1)})
			}
			if got, _ := porcupine.CheckOperationsVerbose(volumeModel, history, time.Minute); got != row.want {
				t.Errorf("the model says %s", got)
			}
		})
	}
}
