package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

func TestCallsReachTheDriverAndAreAnsweredAsDockerWants(t *testing.T) {
	reached := make(chan string, 1)
	e := newEngine(t, &fakeVolumes{
		create: func(_ context.Context, name string, options map[string]string) error {
			reached <- fmt.Sprint("create ", name, " ", options, " ", options == nil)
			return nil
		},
		remove: func(_ context.Context, name string) error {
			reached <- "remove " + name
			return nil
		},
		mount: func(_ context.Context, name, id string, deliver func(string) error) error {
			reached <- "mount " + name + " " + id
			return deliver("/mnt/efs/volumes/" + name)
		},
		unmount: func(name, id string) error {
			reached <- "unmount " + name + " " + id
			return nil
		},
		list: func(context.Context) ([]driver.Summary, uint64) {
			return []driver.Summary{{Name: "a", Mountpoint: "/v/a"}, {Name: "b", Mountpoint: "/v/b"}}, 1
		},
	})
	for _, row := range []struct{ call, body, reaches, answer string }{
		{"Create", `{"Name":"data","Opts":{"uid":"999","mode":"0700"}}`, "create data map[mode:0700 uid:999] false", `{}`},
		{"Create", `{"Name":"data","Opts":null}`, "create data map[] true", `{}`},
		{"Create", `{"Name":"data"}`, "create data map[] true", `{}`},
		{"Create", `{"Name":"data","Opts":{},"Invented":{"later":[1,2]}}`, "create data map[] false", `{}`},
		{"Remove", `{"Name":"data"}`, "remove data", `{}`},
		{"Mount", `{"Name":"data","ID":"b87d"}`, "mount data b87d", `{"Mountpoint":"/mnt/efs/volumes/data"}`},
		{"Unmount", `{"Name":"data","ID":"b87d"}`, "unmount data b87d", `{}`},
		{"List", `{}`, "", `{"Volumes":[{"Name":"a","Mountpoint":"/v/a"},{"Name":"b","Mountpoint":"/v/b"}]}`},
		{"Path", `{"Name":"data"}`, "", `{"Mountpoint":"/mnt/efs/volumes/data"}`},
		{"Capabilities", `{}`, "", `{"Capabilities":{"Scope":"global"}}`},
	} {
		e.mustAnswer(row.call, row.body, http.StatusOK, row.answer)
		got := ""
		select {
		case got = <-reached:
		default:
		}
		if got != row.reaches {
			t.Errorf("%s %s reached the driver as %q, want %q", row.call, row.body, got, row.reaches)
		}
	}
}

func TestActivateTellsWhatThePluginIs(t *testing.T) {
	e := newEngine(t, &fakeVolumes{})
	response, err := e.client.Post("http://plugin/Plugin.Activate", "application/json", nil) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Implements []string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || !slices.Equal(answer.Implements, []string{"VolumeDriver"}) {
		t.Errorf("got %+v, %v", answer, err)
	}
}

func TestErrorsOfTheDriverAreAnsweredInOneLine(t *testing.T) {
	e := newEngine(t, failing(func(context.Context) error {
		return errors.Join(errors.New("the server is away"), errors.New("and the counts too"))
	}))
	for _, call := range []string{"Create", "Remove", "Mount", "Unmount"} {
		if got := e.mustFail(call, `{"Name":"data","ID":"b87d"}`); got != "the server is away; and the counts too" {
			t.Errorf("%s: %q", call, got)
		}
	}
}

// What the engine would take for the truth about a volume is not answered at
// all; for the rest it is better to hear what is wrong.
func TestRequestsThatAreNotUnderstood(t *testing.T) {
	e := newEngine(t, failing(func(context.Context) error {
		t.Error("it reached the driver")
		return nil
	}))
	huge := `{"Name":"` + strings.Repeat("x", maxBody) + `"}`
	for _, body := range []string{`{`, `{"Name":"data"`, `{"Name":7}`, `[]`, `"data"`, `{"Name":"data"} trailing`, "\x00", `<xml/>`, huge} {
		for _, call := range allCalls {
			switch call.name {
			case "Get", "List", "Path":
				e.mustDrop(call.name, body)
			default:
				if got := e.mustFail(call.name, body); !strings.Contains(got, "request") || len(got) > 200 {
					t.Errorf("%s %.80s: %q", call.name, body, got)
				}
			}
		}
	}
	longest := `{"Name":"` + strings.Repeat("x", maxBody-len(`{"Name":""}`)) + `"}`
	e = newEngine(t, &fakeVolumes{})
	e.mustAnswer("Remove", longest, http.StatusOK, `{}`)
}

func TestMountNeverAnswersAnEmptyMountpoint(t *testing.T) {
	var rolledBack atomic.Bool
	e := newEngine(t, &fakeVolumes{mount: func(_ context.Context, _, _ string, deliver func(string) error) error {
		err := deliver("")
		rolledBack.Store(err != nil)
		return err
	}})
	e.mustFail("Mount", `{"Name":"data","ID":"b87d"}`)
	if !rolledBack.Load() {
		t.Error("the driver was not told to roll back")
	}
	e = newEngine(t, &fakeVolumes{mount: func(context.Context, string, string, func(string) error) error { return nil }})
	e.mustFail("Mount", `{"Name":"data","ID":"b87d"}`)
}

func TestPanicCostsOneCall(t *testing.T) {
	e := newEngine(t, failing(func(context.Context) error { panic("defect") }))
	for _, call := range allCalls {
		switch call.name {
		case "Get", "List", "Path":
			e.mustDrop(call.name, call.body)
		case "Capabilities":
			e.mustAnswer(call.name, call.body, http.StatusOK, `{"Capabilities":{"Scope":"global"}}`)
		default:
			if got := e.mustFail(call.name, call.body); got != errPanic.Error() {
				t.Errorf("%s: %q", call.name, got)
			}
		}
	}
	// Each has its own line, and each panic one with the stack.
	panics := 0
	for _, line := range e.lines(2*len(allCalls) - 1) {
		if strings.HasPrefix(line.Message, "panic: defect\n") {
			panics++
			if line.Level != logrus.ErrorLevel || !strings.Contains(line.Message, "fake_test.go") {
				t.Errorf("%v %q does not say where", line.Level, line.Message)
			}
		}
	}
	if panics != len(allCalls)-1 {
		t.Errorf("%d panics were logged", panics)
	}
}

// After the answer has left nothing may follow it: a second one would make
// net/http complain on standard error, past the log.
func TestAnswerIsNeverFollowedByAnother(t *testing.T) {
	complaints := captureStandardLog(t)
	after := errors.New("after the answer")
	e := newEngine(t, &fakeVolumes{mount: func(_ context.Context, name, id string, deliver func(string) error) error {
		if err := deliver("/v/" + name); err != nil {
			return err
		}
		if id == "panics" {
			panic(after)
		}
		return after
	}})
	for _, id := range []string{"panics", "fails"} {
		answer := e.raw("Mount", `{"Name":"data","ID":"`+id+`"}`, 0)
		if !strings.Contains(answer, `{"Mountpoint":"/v/data"}`) || strings.Contains(answer, "Err") || strings.Count(answer, "HTTP/1.1") != 1 {
			t.Errorf("%s: %q", id, answer)
		}
	}
	e.lines(3)
	if text := complaints(); text != "" {
		t.Errorf("standard error got %q", text)
	}
}

// captureStandardLog gives what the log package writes until the test ends.
func captureStandardLog(t *testing.T) (read func() string) {
	t.Helper()
	var mu sync.Mutex
	var text strings.Builder
	before := log.Writer()
	t.Cleanup(func() { log.SetOutput(before) })
	log.SetOutput(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}))
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestEachCallLeavesOneLogLine(t *testing.T) {
	e := newEngine(t, &fakeVolumes{
		create: func(context.Context, string, map[string]string) error { return errors.New("no room") },
		get: func(_ context.Context, name string) (driver.Info, error) {
			if name == "other" {
				return driver.Info{}, notFound(name)
			}
			return driver.Info{Name: name}, nil
		},
	})
	type fields = map[string]string
	rows := []struct {
		call, body string
		level      logrus.Level
		fields     fields
	}{
		{"Create", `{"Name":"data"}`, logrus.ErrorLevel, fields{"volume": "data", "outcome": "no room"}},
		{"Remove", `{"Name":"data"}`, logrus.InfoLevel, fields{"volume": "data", "outcome": "ok"}},
		{"Mount", `{"Name":"data","ID":"b87d"}`, logrus.InfoLevel, fields{"volume": "data", "mount": "b87d", "outcome": "ok"}},
		{"Unmount", `{"Name":"data","ID":"b87d"}`, logrus.InfoLevel, fields{"volume": "data", "mount": "b87d", "outcome": "ok"}},
		{"Get", `{"Name":"data"}`, logrus.DebugLevel, fields{"volume": "data", "outcome": "ok"}},
		{"Get", `{"Name":"other"}`, logrus.DebugLevel, fields{"volume": "other", "outcome": "not found"}},
		{"List", `{}`, logrus.DebugLevel, fields{"outcome": "ok"}},
		{"Path", `{"Name":"data"}`, logrus.DebugLevel, fields{"volume": "data", "outcome": "ok"}},
		{"Capabilities", `{}`, logrus.DebugLevel, fields{"outcome": "ok"}},
	}
	for i, row := range rows {
		if _, _, err := e.ask(t.Context(), row.call, row.body); err != nil {
			t.Fatal(err)
		}
		line := e.lines(i + 1)[i]
		got := fields{}
		for key, value := range line.Data {
			got[key] = fmt.Sprint(value)
		}
		if took, err := time.ParseDuration(got["took"]); err != nil || took < 0 || took > time.Minute {
			t.Errorf("%s: it took %q", row.call, got["took"])
		}
		delete(got, "took")
		row.fields["call"] = row.call
		if line.Level != row.level || line.Message != row.call || !maps.Equal(got, row.fields) {
			t.Errorf("got %v %s %v, want %v %v", line.Level, line.Message, got, row.level, row.fields)
		}
	}
	e.lines(len(rows))
}

func TestListOf10000Volumes(t *testing.T) {
	const many = 10000
	var generation atomic.Uint64
	e := newEngine(t, &fakeVolumes{list: func(context.Context) ([]driver.Summary, uint64) {
		g := generation.Load()
		all := make([]driver.Summary, many)
		for i := range all {
			name := fmt.Sprintf("volume-%05d-%d", i, g)
			all[i] = driver.Summary{Name: name, Mountpoint: "/mnt/efs/volumes/" + name}
		}
		return all, g
	}})
	for want := range uint64(3) {
		generation.Store(want)
		for range 2 { // made, and as it was kept
			status, answer, err := e.ask(t.Context(), "List", `{}`)
			var list struct {
				Volumes []struct{ Name, Mountpoint string }
			}
			if err == nil {
				err = json.Unmarshal([]byte(answer), &list)
			}
			if err != nil || status != http.StatusOK || len(list.Volumes) != many {
				t.Fatalf("got %d, %d volumes, %v", status, len(list.Volumes), err)
			}
			if last := list.Volumes[many-1]; last.Name != fmt.Sprintf("volume-09999-%d", want) || !strings.HasSuffix(last.Mountpoint, last.Name) {
				t.Errorf("generation %d has %+v", want, last)
			}
		}
	}
}

func TestListOfNothingIsAnEmptyList(t *testing.T) {
	newEngine(t, &fakeVolumes{}).mustAnswer("List", `{}`, http.StatusOK, `{"Volumes":[]}`)
}

// One call that waits delays no other, and none gets another's answer.
func TestCallsAreAnsweredInParallel(t *testing.T) {
	release := make(chan struct{})
	e := newEngine(t, &fakeVolumes{mount: func(_ context.Context, name, _ string, deliver func(string) error) error {
		if name == "stuck" {
			<-release
		}
		return deliver("/v/" + name)
	}})
	var stuck, others sync.WaitGroup
	stuck.Go(func() { e.mustAnswer("Mount", `{"Name":"stuck","ID":"1"}`, http.StatusOK, `{"Mountpoint":"/v/stuck"}`) })
	for i := range 20 {
		others.Go(func() {
			for j := range 20 {
				name := fmt.Sprintf("v%d-%d", i, j)
				e.mustAnswer("Mount", `{"Name":"`+name+`","ID":"1"}`, http.StatusOK, `{"Mountpoint":"/v/`+name+`"}`)
				e.mustAnswer("Get", `{"Name":"`+name+`"}`, http.StatusOK, `{"Volume":{"Name":"`+name+`","Mountpoint":"/mnt/efs/volumes/`+name+`"}}`)
			}
		})
	}
	others.Wait()
	close(release)
	stuck.Wait()
	e.lines(801)
}

// At the end calls under way are waited for and the engine's open connections
// bring no new ones: they would meet a driver that is closed.
func TestWaitEndsWithTheLastCall(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	e := newEngine(t, &fakeVolumes{remove: func(context.Context, string) error {
		close(began)
		<-release
		return nil
	}})
	e.mustAnswer("List", `{}`, http.StatusOK, `{"Volumes":[]}`) // leaves an open connection
	var asking sync.WaitGroup
	asking.Go(func() { e.mustAnswer("Remove", `{"Name":"data"}`, http.StatusOK, `{}`) })
	<-began
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e.server.Wait(short)
	if short.Err() == nil {
		t.Error("Wait did not wait")
	}
	e.mustDrop("List", `{}`)
	close(release)
	e.server.Wait(t.Context())
	if got := e.lines(2)[1].Message; got != "Remove" {
		t.Errorf("Wait returned before the call had ended: %s", got)
	}
	asking.Wait()
}

// The race detector looks on.
func TestWaitMayMeetNewCalls(t *testing.T) {
	e := newEngine(t, &fakeVolumes{})
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 50 {
				_, _, _ = e.ask(t.Context(), "List", `{}`)
			}
		})
	}
	for range 10 {
		e.server.Wait(t.Context())
	}
	asking.Wait()
}
