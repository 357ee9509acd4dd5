//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// zones is a plugin of its own, beside that of the other tests, whose file system has a
// mount target in each of three zones; its home is zone a.
type zones struct {
	owner *testing.T
	t     *testing.T // the part of the test at work
	lab   *lab.Lab
	h     *lab.Host
	via   string
}

const (
	zonesPlugin = "zones"
	zonesVolume = "kept"
	// zonesBegin is how long a container takes to be at work.
	zonesBegin = 3 * time.Second
	// zonesWriter is how long a writer writes: more than the slowest move may take.
	zonesWriter = 16 * time.Second
	// zonesPatience is far above what a move takes and far below the minutes that
	// the kernel's client waits by itself.
	zonesPatience = 10 * time.Second
)

// newZones installs it on host-a and makes a volume.
func newZones(t *testing.T, via string, settings ...string) *zones {
	t.Helper()
	l := hosts(t)
	z := &zones{owner: t, t: t, lab: l, h: l.Host("host-a"), via: via}
	if err := bundle.Upload(t.Context(), z.h, siteBundle); err != nil {
		t.Fatal(err)
	}
	if err := z.h.Upload(t.Context(), "../build/lab/writer", "/root/writer", 0o755); err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, zone := range []string{"a", "b", "c"} {
		targets = append(targets, zone+"="+l.Server.Addr(zone).String())
	}
	settings = append(settings, "EFS_FILESYSTEM=nfs://"+l.Server.Addr("a").String()+"/export", "EFS_ROOT=/zones",
		"EFS_TARGETS="+strings.Join(targets, ","), "EFS_ZONE=a", "EFS_VIA="+via)
	t.Cleanup(z.remove)
	run(t, z.h, "docker plugin create "+zonesPlugin+" /root/plugin && docker plugin set "+zonesPlugin+" "+strings.Join(settings, " ")+
		" && docker plugin enable "+zonesPlugin+" && docker volume create -d "+zonesPlugin+" "+zonesVolume)
	return z
}

func (z *zones) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	z.t = z.owner
	if z.t.Failed() {
		out, err := z.h.Run(ctx, "grep 'plugin=' /run/dockerd.log | tail -n 60; ss -tn; cd /sys/kernel/sunrpc/xprt-switches && grep -r . */*-tcp; docker ps -a")
		record(z.t, "zones.log", fmt.Sprint(out, err))
	}
	if err := z.lab.Server.Heal(ctx); err != nil {
		z.t.Error(err)
	}
	_, err := z.h.Run(ctx, "docker ps -aq | xargs -r docker rm -f >/dev/null; docker volume rm -f "+zonesVolume+
		"; docker plugin disable -f "+zonesPlugin+"; docker plugin rm -f "+zonesPlugin)
	if err != nil {
		z.t.Errorf("clean up: %v", err)
	}
}

// written is what the writer reports.
type written struct {
	Writes  int       `json:"writes"`
	Longest float64   `json:"longest_seconds"`
	Stalls  []float64 `json:"stalls_seconds"`
	Error   string    `json:"error"`
}

// write has a container write with a lock held, and calls happen in the midst of it.
func (z *zones) write(lasts time.Duration, happen func()) written {
	z.t.Helper()
	run(z.t, z.h, fmt.Sprintf("docker run -d --name writer --network none -v %s:/data -v /root/writer:/writer:ro --entrypoint /writer busybox -for %s /data/file",
		zonesVolume, lasts))
	time.Sleep(min(lasts, zonesBegin))
	happen()
	out := run(z.t, z.h, "docker wait writer >/dev/null; docker logs writer; docker rm writer >/dev/null")
	var w written
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		z.t.Fatalf("the writer says %q: %v", out, err)
	}
	z.t.Logf("%s: %d writes, longest %.2f s, stalls %.2f", z.via, w.Writes, w.Longest, w.Stalls)
	return w
}

// status asks docker volume inspect for a field of Status.
func (z *zones) status(field string) string {
	z.t.Helper()
	return strings.TrimSpace(run(z.t, z.h, "docker volume inspect -f '{{.Status."+field+"}}' "+zonesVolume))
}

// survives fails the test if the writer had an error or stood still for too long.
func (z *zones) survives(w written) {
	z.t.Helper()
	if w.Error != "" || w.Writes == 0 || w.Longest > zonesPatience.Seconds() {
		z.t.Errorf("%+v", w)
	}
}

func TestZonesWriterSurvivesTheLossOfZones(t *testing.T) {
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via)
			z.write(time.Second, func() {})
			if got := z.status("zone"); got != "a" {
				t.Fatalf("it begins in zone %s, not in its own", got)
			}
			for _, row := range []struct {
				name string
				lose func(context.Context, netip.Addr) error
			}{
				{"the first one refuses", z.lab.Server.Reject},
				{"the next one is silent", z.lab.Server.Drop},
			} {
				t.Run(row.name, func(t *testing.T) {
					z.t = t
					lost := z.status("zone")
					z.survives(z.write(zonesWriter, func() {
						if err := row.lose(t.Context(), z.lab.Server.Addr(lost)); err != nil {
							t.Fatal(err)
						}
					}))
					if got := z.status("zone"); got == lost || got == "" {
						t.Errorf("it was in zone %s and is in zone %q", lost, got)
					}
				})
			}
			z.t = t
			if got, want := z.status("transport"), "NFSv4.1, "+via; got != want {
				t.Errorf("the transport is %s, want %s", got, want)
			}
		})
	}
}

func TestZonesWriterSurvivesThePlugin(t *testing.T) {
	z := newZones(t, "relay")
	const worker, parent = "pkill -9 -f '^docker-volume-efs-worker serve'", "pkill -9 -f '^/docker-volume-efs serve'"
	for _, row := range []struct{ name, line string }{
		{"two kills of the worker", worker + "; sleep 1; " + worker},
		{"a kill of the whole plugin", parent},
		{"disable -f and enable", "docker plugin disable -f " + zonesPlugin + " && docker plugin enable " + zonesPlugin},
	} {
		t.Run(row.name, func(t *testing.T) {
			z.t = t
			z.survives(z.write(zonesWriter, func() { run(t, z.h, row.line) }))
		})
	}
}

// A relay is for the kernel alone: whoever else connects is root, or may become it.
func TestZonesProcessesGetNothingFromARelay(t *testing.T) {
	z := newZones(t, "relay")
	z.write(time.Second, func() {})
	host, port, _ := strings.Cut(z.status("relay"), ":")
	// NFS's NULL call, as package proxy sends it to see whether a server answers.
	const null = `printf '\200\000\000\050\001\002\003\004\000\000\000\000\000\000\000\002\000\001\206\243\000\000\000\004` +
		`\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000' | nc -w 5 %s %s | wc -c`
	if got := strings.TrimSpace(run(t, z.h, "busybox sh -c \""+strings.ReplaceAll(fmt.Sprintf(null, z.lab.Server.Addr("a"), "2049"), `"`, `\"`)+"\"")); got == "0" {
		t.Fatal("the server itself does not answer NULL: this test could not fail")
	}
	for _, row := range []struct{ name, command string }{
		{"a process of root on the host", "busybox sh -c \"" + null + "\""},
		{"root in a container with the host's network", "docker run --rm --network host busybox sh -c \"" + null + "\""},
		{"a privileged container", "docker run --rm --privileged --network host busybox sh -c \"" + null + "\""},
		{"a user in a container", "docker run --rm --user 1000 --network host busybox sh -c \"" + null + "\""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.TrimSpace(run(t, z.h, fmt.Sprintf(row.command, host, port))); got != "0" {
				t.Errorf("it got %s bytes", got)
			}
		})
	}
	z.survives(z.write(time.Second, func() {}))
}
