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

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
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

func (d *drains) Trash(context.Context) ([]driver.Trashed, error) {
	return []driver.Trashed{{Entry: "20261121T120000Z-ABCDEF-data", Volume: "data"}}, errors.New("fs-2 does not answer")
}

func (d *drains) Restore(_ context.Context, what, as string) (string, error) {
	if what != "data" {
		return "", errors.New("no such entry")
	}
	return as, nil
}

func (d *drains) EmptyTrash(_ context.Context, entries []string, age time.Duration) (int, error) {
	if len(entries) == 0 && age == 0 {
		return 0, errors.New("fs-2 does not answer")
	}
	return len(entries) + int(age/time.Hour), nil
}

func (*drains) Volumes(context.Context) []driver.Volume {
	return []driver.Volume{{Name: "data", FileSystem: "fs-1", Path: "/data", Remove: "trash", UsedBy: []string{"web-1", "web-2"}}, {Name: "old", Path: "/old", Remove: "trash", Adopted: true}}
}

func (*drains) Size(_ context.Context, name string, progress func(tree.Usage)) (tree.Usage, error) {
	progress(tree.Usage{Bytes: 1, Files: 1})
	if name == "old" {
		return tree.Usage{}, errors.New("size volume \"old\": its directory is gone")
	}
	return tree.Usage{Bytes: 3 << 20, Files: 7}, nil
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
		{"GET", "/volumes", 200, `{"volume":"data","filesystem":"fs-1","path":"/data","remove":"trash","used_by":["web-1","web-2"]}`},
		{"GET", "/volumes/size?volume=data", 200, `{"bytes":3145728,"files":7,"done":true}`},
		{"GET", "/volumes/size?volume=old", 200, `"error":"size volume \"old\": its directory is gone"`},
		{"GET", "/trash", 200, `{"entries":[{"entry":"20261121T120000Z-ABCDEF-data","volume":"data"`},
		{"GET", "/trash", 200, `"trouble":"fs-2 does not answer"`},
		{"POST", "/trash/restore?what=data&as=web", 200, `{"volume":"web"}`},
		{"POST", "/trash/restore?what=other", 400, "no such entry"},
		{"POST", "/trash/empty?entry=a&entry=b", 200, `{"deleted":2}`},
		{"POST", "/trash/empty", 200, `{"deleted":0,"trouble":"fs-2 does not answer"}`},
		{"POST", "/trash/empty?older=3h", 200, `{"deleted":3}`},
		{"POST", "/trash/empty?older=yesterday", 400, "give a duration"},
		{"POST", "/trash/empty?older=-1h", 400, "give a duration"},
		{"POST", "/preempt?volume=held", 200, `{"host":"web-2"}`},
		{"POST", "/preempt?volume=free", 200, `{"host":""}`},
		{"POST", "/preempt", 400, "no such volume"},
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

func (*drains) Preempt(_ context.Context, volume string) (string, error) {
	switch volume {
	case "held":
		return "web-2", nil
	case "free":
		return "", nil
	}
	return "", errors.New("no such volume")
}
