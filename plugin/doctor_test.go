package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

const aSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // AWS's documentation has it

// examinedBy plays the driver.
type examinedBy func(ctx context.Context, report func(doctor.Finding))

func (e examinedBy) Doctor(ctx context.Context, report func(doctor.Finding)) { e(ctx, report) }

// askable serves a Doctor, whose routes are those of the control socket.
func askable(t *testing.T, d *Doctor) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+DoctorPath, d.examine)
	mux.HandleFunc("GET "+FilesPath, d.files)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func newDoctor(t *testing.T, examined examinedBy) *Doctor {
	t.Helper()
	_, log := NewLog(&strings.Builder{}, &strings.Builder{})
	return &Doctor{
		Driver: examined, Data: t.TempDir(), Log: log, Environ: []string{"AWS_SECRET_ACCESS_KEY=" + aSecret, "EFS_VIA=relay"},
		Snapshot: func() status.Snapshot {
			return status.Snapshot{Version: "v1.2.3", Host: "web", Trouble: []string{"it said " + aSecret}}
		},
	}
}

func get(t *testing.T, url string) *bufio.Scanner {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return lines
}

// People watch: what is found is told before the next check is over.
func TestFindingsComeAsTheyAreMade(t *testing.T) {
	next := make(chan struct{})
	url := askable(t, newDoctor(t, func(_ context.Context, report func(doctor.Finding)) {
		report(doctor.Finding{Check: "first", Why: "the key is " + aSecret})
		<-next
		report(doctor.Finding{Check: "second"})
	}))
	lines := get(t, url+DoctorPath)
	for _, want := range []string{"plugin", "first", "second"} {
		if want == "second" {
			close(next)
		}
		var f doctor.Finding
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &f) != nil || f.Check != want {
			t.Fatalf("%q, %v, want %s", lines.Text(), lines.Err(), want)
		}
		if strings.Contains(lines.Text(), aSecret) {
			t.Errorf("it has a secret: %s", lines.Text())
		}
	}
}

func TestWhoAsksForFindingsAndGoesEndsTheChecks(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	url := askable(t, newDoctor(t, func(ctx context.Context, _ func(doctor.Finding)) {
		close(begun)
		<-ctx.Done()
		close(ended)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+DoctorPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	<-begun
	cancel()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("they go on")
	}
}

func TestFilesHaveNoSecret(t *testing.T) {
	d := newDoctor(t, nil)
	logger, log := NewLog(&strings.Builder{}, &strings.Builder{})
	logger.WithField("volume", "data").Errorf("AWS said %s", aSecret)
	d.Log = log
	state := filepath.Join(d.Data, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"volumes": "a volume, " + aSecret, "key.pem": "the key", "host-id": "the id"} {
		if err := os.WriteFile(filepath.Join(state, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{}
	for lines := get(t, askable(t, d)+FilesPath); lines.Scan(); {
		var f doctor.File
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			t.Fatal(err)
		}
		files[f.Name] = f.Content
		for _, secret := range []string{aSecret, "the key", "the id"} {
			if strings.Contains(f.Content, secret) {
				t.Errorf("%s has a secret: %s", f.Name, f.Content)
			}
		}
	}
	for name, has := range map[string]string{
		"version.txt": "v1.2.3", "settings.txt": "AWS_SECRET_ACCESS_KEY set\nEFS_VIA = relay\n", "status.json": `"it said [redacted]"`,
		"log.txt": "AWS said [redacted]", "state-volumes.txt": "a volume, [redacted]", "kernel.txt": "Linux",
	} {
		if !strings.Contains(files[name], has) {
			t.Errorf("%s does not say %q: %s", name, has, files[name])
		}
	}
}

func TestRecentLinesAreBounded(t *testing.T) {
	logger, log := NewLog(&strings.Builder{}, &strings.Builder{})
	if log.Recent() != "" {
		t.Errorf("before anything was logged: %q", log.Recent())
	}
	logger.SetLevel(logrus.InfoLevel)
	logger.Debug("not wanted")
	for i := range 3 * logQueue { // most of them are dropped: nobody reads
		logger.Infof("line %d", i)
	}
	recent := log.Recent()
	if len(recent) > maxRecent || len(recent) < maxRecent/2 || strings.Contains(recent, "not wanted") || strings.Contains(recent, "line 0\"") {
		t.Errorf("%d bytes, beginning with %.200s", len(recent), recent)
	}
	if !strings.HasSuffix(recent, fmt.Sprintf("line %d\"\n", 3*logQueue-1)) {
		t.Errorf("the last line is missing: %s", recent[len(recent)-200:])
	}
}

func TestMisconfigurationIsToldInTwoParts(t *testing.T) {
	err := ReadSettings(func(name string) string { return map[string]string{"EFS_VIA": "x"}[name] }).Driver.Misconfigured
	wrong, do := err.(interface{ Advice() (string, string) }).Advice()
	if !strings.Contains(wrong, `EFS_VIA="x"`) || strings.Contains(wrong, "docker plugin") || !strings.Contains(do, "docker plugin set") || err.Error() != wrong+"; change it: "+do {
		t.Errorf("%q, %q of %v", wrong, do, err)
	}
}
