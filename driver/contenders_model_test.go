package driver_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// volumeModel is a volume as Docker's users see it: it is there, with files and perhaps for one host
// alone, or it is not.
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
	Init: func() any { return volumeState{} },
	Step: func(state, input, _ any) (bool, any) { return step(state.(volumeState), input.(deed)) },
	DescribeOperation: func(input, _ any) string {
		d := input.(deed)
		return fmt.Sprint(d.What, " ", d.Token, d.Seen, " ", d.Outcome)
	},
}

type volumeState struct {
	there  bool
	files  string // each with a space behind it
	holder string // the host that has its lease
}

func (s volumeState) isFor(host string) bool { return s.there && (s.holder == "" || s.holder == host) }

func step(state volumeState, d deed) (possible bool, next volumeState) {
	switch d.Outcome {
	case "":
		return done(state, d)
	case absent:
		return !state.there, state
	case lost: // at any time from then on, or never
		if possible, next := done(state, d); possible {
			return true, next
		}
	}
	return true, state
}

func done(state volumeState, d deed) (possible bool, next volumeState) {
	host := fmt.Sprint("host ", d.Host)
	next = state
	switch d.What {
	case "create":
		next.there = true
		return true, next
	case "remove":
		return state.holder == "", volumeState{}
	case "take":
		next.holder = host
		return state.isFor(host), next
	case "give":
		next.holder = ""
		return state.holder == host, next
	case "die":
		if state.holder == host {
			next.holder = ""
		}
		return true, next
	case "put":
		files := append(strings.Fields(state.files), d.Token)
		slices.Sort(files)
		next.files = strings.Join(files, " ") + " "
		return state.isFor(host), next
	default:
		return state.isFor(host) && slices.Equal(strings.Fields(state.files), d.Seen), state
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

// TestTheModelOfAVolume shows that the model that judges the contenders can say no.
func TestTheModelOfAVolume(t *testing.T) {
	create, take, give, die := deed{What: "create"}, deed{What: "take"}, deed{What: "give"}, deed{What: "die"}
	by := func(host int, d deed) deed {
		d.Host = host
		return d
	}
	for _, row := range []struct {
		name    string
		history []deed
		want    porcupine.CheckResult
	}{
		{"a file is there after it was put", []deed{create, {What: "put", Token: "a"}, {What: "look", Seen: []string{"a"}}}, porcupine.Ok},
		{"a file is lost", []deed{create, {What: "put", Token: "a"}, {What: "look"}}, porcupine.Illegal},
		{"a file comes back", []deed{create, {What: "put", Token: "a"}, {What: "remove"}, create, {What: "look", Seen: []string{"a"}}}, porcupine.Illegal},
		{"a volume is lost", []deed{create, {What: "look", Outcome: absent}}, porcupine.Illegal},
		{"a volume comes from nowhere", []deed{{What: "put", Token: "a"}}, porcupine.Illegal},
		{"a volume comes back", []deed{create, {What: "remove"}, {What: "look"}}, porcupine.Illegal},
		{"a refusal changes nothing", []deed{create, {What: "remove", Outcome: refused}, {What: "look"}}, porcupine.Ok},

		{"a lease goes from host to host", []deed{create, by(1, take), by(1, give), by(2, take)}, porcupine.Ok},
		{"a lease is had by two", []deed{create, by(1, take), by(2, take), by(1, give), by(2, give)}, porcupine.Illegal},
		{"a lease is of no volume", []deed{by(1, take)}, porcupine.Illegal},
		{"a host writes while another has the lease", []deed{create, by(1, take), by(2, deed{What: "put", Token: "a"})}, porcupine.Illegal},
		{"a volume is removed while a host has its lease", []deed{create, by(1, take), by(2, deed{What: "remove"})}, porcupine.Illegal},
		{"the lease of a host that died is taken", []deed{create, by(1, take), by(1, die), by(2, take)}, porcupine.Ok},
		{"that of a host that lives is taken because another died", []deed{create, by(1, take), by(2, die), by(3, take)}, porcupine.Illegal},
		{"a host dies while it takes a lease, which it did not get", []deed{create, by(1, deed{What: "take", Outcome: lost}), by(2, take), by(1, die)}, porcupine.Ok},
		{"a host dies while it takes a lease, which it got", []deed{create, by(1, deed{What: "take", Outcome: lost}), by(1, die), by(2, take)}, porcupine.Ok},
		{"a host dies while it removes, which another ends", []deed{create, {What: "remove", Outcome: lost}, {What: "look", Outcome: absent}}, porcupine.Ok},
		{"a host dies while it puts a file, and others see one that nobody put", []deed{create, {What: "put", Token: "a", Outcome: lost}, {What: "look", Seen: []string{"b"}}}, porcupine.Illegal},
	} {
		t.Run(row.name, func(t *testing.T) {
			var history []porcupine.Operation
			for n, d := range row.history {
				d.Name = "data"
				end := int64(2*n + 1)
				if d.Outcome == lost {
					end = math.MaxInt64
				}
				history = append(history, porcupine.Operation{Input: d, Call: int64(2 * n), Return: end})
			}
			if got, _ := porcupine.CheckOperationsVerbose(volumeModel, history, time.Minute); got != row.want {
				t.Errorf("the model says %s", got)
			}
		})
	}
}
