//go:build integration

package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

func TestEnginesAnswer(t *testing.T) {
	alone(t, "host-c", "host-d", "host-e")
	want := map[string]string{"trixie": "26.1.", "bookworm": "20.10."}[suite()]
	for _, h := range hosts(t).Hosts() {
		if got := run(t, h, "docker version --format '{{.Server.Version}}'"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: Engine %s, want %sx", h.Name(), got, want)
		}
	}
}

func TestHostsAreDifferentMachines(t *testing.T) {
	alone(t)
	l := hosts(t)
	for _, what := range []string{
		"hostname", "cat /etc/machine-id", "cat /sys/class/net/eth0/address",
		"cat /proc/sys/kernel/random/boot_id", "od -An -N16 -tx1 /dev/urandom",
	} {
		a, b := run(t, l.Host("host-a"), what), run(t, l.Host("host-b"), what)
		if a == b || a == "" {
			t.Errorf("%s says %q on both hosts", what, a)
		}
	}
}

func TestHostsKnowTheTime(t *testing.T) {
	alone(t, "host-c", "host-d", "host-e")
	const allowed = 2 * time.Second // an emulated clock lags on a busy machine
	for _, h := range hosts(t).Hosts() {
		before := time.Now()
		got, err := time.Parse("2006-01-02T15:04:05.000", run(t, h, "date --utc +%Y-%m-%dT%H:%M:%S.%3N"))
		if err != nil {
			t.Fatal(err)
		}
		if got.Before(before.Add(-allowed)) || got.After(time.Now().Add(allowed)) {
			t.Errorf("%s says %s, it is %s", h.Name(), got, time.Now().UTC())
		}
	}
}

func TestHostsShareFiles(t *testing.T) {
	alone(t)
	l := hosts(t)
	a, b := l.Host("host-a"), l.Host("host-b")
	mountNFS(t, a, "10.77.0.11:/export")
	mountNFS(t, b, "nfs-b:/export")
	run(t, a, "echo from a >/mnt/greeting")
	if got := run(t, b, "cat /mnt/greeting"); got != "from a" {
		t.Errorf("host-b reads %q", got)
	}
	path := filepath.Join(l.Server.Dir("/export"), "greeting")
	if got, err := os.ReadFile(path); err != nil || string(got) != "from a\n" {
		t.Errorf("the server's directory has %q, %v", got, err)
	}
	run(t, a, "rm /mnt/greeting")
}

func TestExportsKeepTheirRules(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-a")
	mountNFS(t, h, "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com:/")
	for _, c := range []struct{ line, complaint string }{
		{"touch /mnt/file && rm /mnt/file", ""},
		{"touch /mnt/readonly/file", "Read-only file system"},
		{"touch /mnt/squash/file", "Permission denied"},
		{"head -c 20000000 /dev/zero >/mnt/small/file", "No space left on device"},
	} {
		_, err := h.Run(t.Context(), c.line)
		var exit *lab.ExitError
		switch {
		case c.complaint == "" && err != nil:
			t.Error(err)
		case c.complaint != "" && (!errors.As(err, &exit) || !strings.Contains(exit.Stderr, c.complaint)):
			t.Errorf("%s: got %v, want %q", c.line, err, c.complaint)
		}
	}
	run(t, h, "rm -f /mnt/small/file")
}

func TestContainersRun(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-b")
	if got := run(t, h, "docker run --rm --network none busybox echo hi"); got != "hi" {
		t.Errorf("busybox says %q", got)
	}
	run(t, h, "docker run -d --name rows --network none postgres")
	t.Cleanup(func() { _, _ = h.Run(context.Background(), "docker rm -f -v rows") })
	got := run(t, h, `
		for i in $(seq 100); do docker exec rows pg_isready -q && break; sleep 0.3; done
		docker exec rows psql -U postgres -Atc 'create table t (n int); insert into t values (42); select n from t'
		docker exec rows ps -o user= 1 2>/dev/null || docker exec rows stat -c %u /proc/1`)
	if !strings.Contains(got, "42") || !strings.HasSuffix(got, "999") && !strings.HasSuffix(got, "postgres") {
		t.Errorf("Postgres says %q", got)
	}
}

func TestDialReachesASocketInTheHost(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-a")
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return h.Dial(ctx, "unix", "/run/docker.sock")
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "OK" {
		t.Errorf("the Engine says %q, %v", body, err)
	}
}

func TestUploadedProgramRuns(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-a")
	if err := h.UploadBytes(t.Context(), []byte("#!/bin/sh\necho \"it's $1\"\n"), "/opt/a b/say", 0o755); err != nil {
		t.Fatal(err)
	}
	if got := run(t, h, "'/opt/a b/say' here"); got != "it's here" {
		t.Errorf("the program says %q", got)
	}
}

func TestRunTellsHowACommandFailed(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-a")
	_, err := h.Run(t.Context(), "echo some words >&2; exit 3")
	var exit *lab.ExitError
	if !errors.As(err, &exit) || exit.Status != 3 || exit.Stderr != "some words\n" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.Run(ctx, "sleep 1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long: got %v", err)
	}
	if _, err := h.Run(t.Context(), "pgrep -f 'sleep 100[0]'"); err == nil {
		t.Error("the command that took too long still runs")
	}
}

func TestPausedHostAnswersAfterItsResume(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-b")
	if err := h.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.Run(ctx, "true"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("paused: got %v", err)
	}
	if err := h.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, h, "true")
}

func TestEngineIsStoppedAndStarted(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-b")
	run(t, h, "stop-docker KILL")
	if _, err := h.Run(t.Context(), "docker ps"); err == nil {
		t.Error("a stopped Engine answers")
	}
	run(t, h, "start-docker --live-restore && docker info --format '{{.LiveRestoreEnabled}}' | grep true")
	run(t, h, "stop-docker && start-docker && docker ps")
}

func TestHostComesBackAfterPowerOff(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-b")
	identity := "hostname; cat /etc/machine-id /sys/class/net/eth0/address; ip -4 -br addr show eth0"
	before, boot := run(t, h, identity), run(t, h, "cat /proc/sys/kernel/random/boot_id")
	run(t, h, "echo kept >/root/synced; sync -f /root/synced")
	h.PowerOff()
	if _, err := h.Run(t.Context(), "true"); err == nil {
		t.Error("a host without power answers")
	}
	if err := h.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := run(t, h, identity); after != before {
		t.Errorf("after power-on it is %q, was %q", after, before)
	}
	if run(t, h, "cat /proc/sys/kernel/random/boot_id") == boot {
		t.Error("the boot ID is that of before")
	}
	if got := run(t, h, "cat /root/synced; docker run --rm --network none busybox echo hi"); got != "kept\nhi" {
		t.Errorf("after power-on: %q", got)
	}
}

func TestHostThatEndsByItselfIsNoticed(t *testing.T) {
	alone(t)
	h := hosts(t).Host("host-b")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Run(ctx, "busybox poweroff -f; sleep 1000")
	if err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("got %v", err)
	}
	h.PowerOff()
	if err := h.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mountNFS mounts source on /mnt for the length of the test.
func mountNFS(t *testing.T, h *lab.Host, source string) {
	t.Helper()
	run(t, h, "mount -t nfs4 -o vers=4.1 "+source+" /mnt")
	t.Cleanup(func() {
		if _, err := h.Run(context.Background(), "umount -R /mnt || umount -f -l /mnt"); err != nil {
			t.Error(err)
		}
	})
}

// reach says how an address of a server looks from a host: "open", "refused" or
// "silent".
func reach(t *testing.T, h *lab.Host, address netip.Addr) string {
	t.Helper()
	return run(t, h, `timeout 2 bash -c ': </dev/tcp/`+address.String()+`/2049' 2>/dev/null
		case $? in 0) echo open ;; 124) echo silent ;; *) echo refused ;; esac`)
}
