package plugin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// drains plays the driver.
type drains struct{ got []string }

func (d *drains) Drain(zone string, on bool) error {
	if zone == "nowhere" {
		return errors.New("no mount target in zone \"nowhere\"")
	}
	if !on {
		zone = "not " + zone
	}
	d.got = append(d.got, zone)
	return nil
}

func TestControlSocketShowsThePagesAndDrains(t *testing.T) {
	listener, err := Listen(filepath.Join(t.TempDir(), "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	d, ended := &drains{}, make(chan error, 1)
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
		_, _ = io.WriteString(w, "the page "+r.URL.Path)
	})
	go func() { ended <- ServeControl(listener, pages, d, nil) }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", listener.Addr().String())
		},
	}}
	for _, row := range []struct {
		method, path string
		code         int
		text         string
	}{
		{"GET", "/status.json", 200, "the page /status.json"},
		{"GET", "/metrics", 200, "the page /metrics"},
		{"POST", "/status.json", 405, "the page /status.json"},
		{"POST", "/drain?zone=a&on=true", 204, ""},
		{"POST", "/drain?zone=a&on=false", 204, ""},
		{"POST", "/drain?zone=nowhere&on=true", 400, "no mount target in zone \"nowhere\"\n"},
		{"POST", "/drain?zone=a&on=perhaps", 400, "invalid syntax"},
		{"POST", "/drain", 400, "invalid syntax"},
		{"GET", "/drain?zone=a&on=true", 200, "the page /drain"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), row.method, "http://plugin"+row.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != row.code || !strings.Contains(string(text), row.text) {
			t.Errorf("%s %s: %d %q, want %d %q", row.method, row.path, answer.StatusCode, text, row.code, row.text)
		}
	}
	if got := strings.Join(d.got, ", "); got != "a, not a" {
		t.Errorf("drained: %s", got)
	}
	_ = listener.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
