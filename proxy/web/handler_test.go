package web_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

var paths = []string{"/", "/metrics", "/healthz", "/status.json"}

func TestEachPageAnswersGetAndHeadOnly(t *testing.T) {
	h := of(status.Snapshot{})
	for _, path := range paths {
		for method, want := range map[string]int{
			http.MethodGet: 200, http.MethodHead: 200,
			http.MethodPost: 405, http.MethodPut: 405, http.MethodDelete: 405, http.MethodOptions: 405, "HELLO": 405,
		} {
			if got := ask(t, h, method, path).Code; got != want {
				t.Errorf("%s %s: status %d, want %d", method, path, got, want)
			}
		}
	}
	for _, path := range []string{"/nothing", "/metrics/", "/status.json/x", "/debug/pprof/"} {
		if got := ask(t, h, http.MethodGet, path).Code; got != 404 {
			t.Errorf("GET %s: status %d, want 404", path, got)
		}
	}
}

func TestEveryAnswerHasBrowsersRunAndKeepNothing(t *testing.T) {
	h := of(filled(time.Now()))
	for _, path := range append(paths, "/nothing") {
		header := ask(t, h, http.MethodGet, path).Header()
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy %q has no %q", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
	}
}

func TestThePolicyAllowsThePagesOwnStyle(t *testing.T) {
	answer := ask(t, of(filled(time.Now())), http.MethodGet, "/")
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(answer.Body.String(), -1)
	if len(styles) != 1 {
		t.Fatalf("the page has %d styles, want 1", len(styles))
	}
	sum := sha256.Sum256([]byte(styles[0][1]))
	want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	if got := answer.Header().Get("Content-Security-Policy"); !strings.Contains(got, want) {
		t.Errorf("the policy is %q, want %q in it", got, want)
	}
}

func TestHealthNamesEveryTroubleInOneLine(t *testing.T) {
	for _, row := range []struct {
		name     string
		snapshot status.Snapshot
		status   int
		text     string
	}{
		{"nothing is wrong", status.Snapshot{}, 200, "ok\n"},
		{"everything is wrong", filled(time.Now()), 503, `settings: EFS_REMOVE "nothing": write keep, trash or delete
file system nfs://nas.example.com/export/a-rather-long-path/for-a-narrow-window: mount: timed out after 25 s
file system nfs://nas.example.com/export/a-rather-long-path/for-a-narrow-window: no mount target answers: 192.0.2.7:2049: read tcp 192.0.2.1:50514->192.0.2.7:2049: i/o timeout
volume build-cache: its directory is gone from the file system
`},
		{"one zone of two is down", status.Snapshot{FileSystems: []status.FileSystem{twoZones(proxy.Down, proxy.Up)}}, 200, "ok\n"},
		{"one zone of two is not checked yet", status.Snapshot{FileSystems: []status.FileSystem{twoZones(proxy.Down, proxy.Unknown)}}, 200, "ok\n"},
		{"no zone answers", status.Snapshot{FileSystems: []status.FileSystem{twoZones(proxy.Down, proxy.Doubt)}}, 503, "file system fs: no mount target answers: a=10.0.1.5:2049: refused; b=10.0.2.5:2049: refused\n"},
		{"a trouble of two lines", status.Snapshot{Trouble: []string{"first\r\nok\n"}}, 503, "first ok\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			answer := ask(t, of(row.snapshot), http.MethodGet, "/healthz")
			if answer.Code != row.status || answer.Body.String() != row.text {
				t.Errorf("answered %d %q, want %d %q", answer.Code, answer.Body, row.status, row.text)
			}
		})
	}
}

func twoZones(a, b proxy.Health) status.FileSystem {
	return status.FileSystem{GroupState: proxy.GroupState{FileSystem: "fs", Targets: []proxy.TargetState{
		{Target: target("a", "10.0.1.5:2049"), Health: a, Why: "refused"},
		{Target: target("b", "10.0.2.5:2049"), Health: b, Why: "refused"},
	}}}
}

func TestTheJSONIsTheSnapshot(t *testing.T) {
	want := filled(time.Now())
	answer := ask(t, of(want), http.MethodGet, "/status.json")
	var got status.Snapshot
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	again := ask(t, of(got), http.MethodGet, "/status.json")
	if again.Body.String() != answer.Body.String() {
		t.Errorf("read and written again it is\n%s\nwant\n%s", again.Body, answer.Body)
	}
	if len(got.FileSystems) != 3 || got.FileSystems[0].Transports[0].Traffic.Targets[1].In != 3<<40 || got.Mounted[1].Uses() != 3 {
		t.Errorf("it is %+v", got)
	}
	if kind := answer.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("its type is %q", kind)
	}
}

func TestTheJSONHasListsWhereThereIsNothing(t *testing.T) {
	s := status.Snapshot{FileSystems: []status.FileSystem{{}}, Mounted: []status.Volume{{}}}
	text := ask(t, of(s), http.MethodGet, "/status.json").Body.String()
	if strings.Contains(text, "null") {
		t.Errorf("a program that goes through lists meets null:\n%s", text)
	}
	if s.FileSystems[0].Transports != nil || s.Mounted[0].Mounts != nil {
		t.Error("the source's own snapshot was changed")
	}
}

// The metrics are collected in goroutines of the library's: a panic there would end
// the process, and with it every relay.
func TestADefectInTheSourceIsATroubleAndNoEnd(t *testing.T) {
	h := handler(func() status.Snapshot { panic("a defect") })
	for _, path := range paths {
		answer := ask(t, h, http.MethodGet, path)
		if path == "/healthz" && (answer.Code != 503 || !strings.Contains(answer.Body.String(), "internal error")) {
			t.Errorf("%s answered %d %s", path, answer.Code, answer.Body)
		}
		if strings.Contains(answer.Body.String(), "a defect") {
			t.Errorf("%s tells what is for the log", path)
		}
	}
	if answer := ask(t, h, http.MethodGet, "/metrics"); !strings.Contains(answer.Body.String(), "\nefs_healthy 0\n") {
		t.Errorf("the metrics are %s", answer.Body)
	}
}

func TestSnapshotsAreTakenOneAtATime(t *testing.T) {
	busy := make(chan struct{}, 1)
	h := handler(func() status.Snapshot {
		select {
		case busy <- struct{}{}:
		default:
			t.Error("two at once")
		}
		time.Sleep(time.Millisecond)
		<-busy
		return status.Snapshot{}
	})
	done := make(chan struct{})
	for i := range 16 {
		go func() {
			ask(t, h, http.MethodGet, paths[i%len(paths)])
			done <- struct{}{}
		}()
	}
	for range 16 {
		<-done
	}
}
