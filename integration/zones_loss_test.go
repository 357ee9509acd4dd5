//go:build integration

package integration

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

func testZonesLoss(t *testing.T) {
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via, nil)
			z.write(time.Second, func() {})
			if got := z.status("zone"); got != "a" {
				t.Fatalf("it begins in zone %s, not in its own", got)
			}
			for _, row := range []struct {
				name string
				lose func(context.Context, netip.Addr) error
			}{
				{"the first one refuses", z.server.Reject},
				{"the next one is silent", z.server.Drop},
			} {
				z.in(row.name, func() {
					lost := z.status("zone")
					z.survives(z.write(zonesWriter, func() { z.fault(row.lose, lost) }))
					if got := z.status("zone"); got == lost || got == "" {
						z.t.Errorf("it was in zone %s and is in zone %q", lost, got)
					}
				})
			}
			if got, want := z.status("transport"), "NFSv4.1, "+via; got != want {
				t.Errorf("the transport is %s, want %s", got, want)
			}
		})
	}
}

func testZonesPlugin(t *testing.T) {
	z := newZones(t, "relay", nil)
	const worker, parent = "pkill -9 -f '^docker-volume-efs-worker serve'", "pkill -9 -f '^/docker-volume-efs serve'"
	for _, row := range []struct{ name, line string }{
		{"two kills of the worker", worker + "; sleep 1; " + worker},
		{"a kill of the whole plugin", parent},
		{"disable -f and enable", "docker plugin disable -f " + zonesPlugin + " && docker plugin enable " + zonesPlugin},
	} {
		z.in(row.name, func() {
			z.survives(z.write(zonesWriter, func() { run(z.t, z.h, row.line) }))
		})
	}
}

func testZonesHeal(t *testing.T) {
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via, nil)
			from := z.logLines()
			z.survives(z.write(12*time.Second, func() {
				z.fault(z.server.Drop, "a")
				time.Sleep(2 * time.Second)
				z.heal()
			}))
			if n := z.moves(from); n != 0 || z.status("zone") != "a" {
				t.Errorf("after %d moves it is in zone %s", n, z.status("zone"))
			}
		})
	}
}

func testZonesFlap(t *testing.T) {
	z := newZones(t, "relay", nil)
	from := z.logLines()
	z.survives(z.write(45*time.Second, func() {
		for range 6 {
			z.fault(z.server.Reject, "a")
			time.Sleep(3 * time.Second)
			z.heal()
			time.Sleep(3 * time.Second)
		}
	}))
	if n := z.moves(from); n < 1 || n > 2 {
		t.Errorf("%d moves", n)
	}
}

func testZonesAll(t *testing.T) {
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via, nil)
			const lost = 8 * time.Second
			w := z.write(lost+zonesWriter+zonesPatience, func() {
				for _, zone := range []string{"a", "b", "c"} {
					z.fault(z.server.Drop, zone)
				}
				time.Sleep(lost)
				z.heal()
				z.fault(z.server.Drop, "a")
				z.fault(z.server.Drop, "b")
			})
			if w.Error != "" || w.Damage != "" || w.Longest > (lost+zonesPatience).Seconds() {
				t.Errorf("%+v", w)
			}
			if got := z.status("zone"); got != "c" {
				t.Errorf("it is in zone %s", got)
			}
		})
	}
}

func testZonesDirections(t *testing.T) {
	z := newZones(t, "relay", nil)
	for _, row := range []struct {
		name string
		lose func(context.Context, netip.Addr) error
	}{
		{"requests", z.server.DropRequests},
		{"answers", z.server.DropAnswers},
	} {
		z.in(row.name, func() {
			lost := z.status("zone")
			z.survives(z.write(zonesWriter, func() { z.fault(row.lose, lost) }))
			if got := z.status("zone"); got == lost {
				z.t.Errorf("it is in zone %s still", got)
			}
			z.heal()
		})
	}
}

func testZonesDrain(t *testing.T) {
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via, nil)
			z.survives(z.writer(20*time.Second, "-names /data/names", func() {
				for _, zone := range []string{"a", "b", "c", "a"} {
					z.command("drain " + zone)
					time.Sleep(2 * time.Second)
					if got := z.status("zone"); got == zone {
						t.Errorf("zone %s is drained and in use", zone)
					}
					z.command("drain --undo " + zone)
				}
			}))
		})
	}
}

// A port of a relay is what mounts of running containers connect to: no other will do.
func testZonesPort(t *testing.T) {
	z := newZones(t, "relay", nil)
	z.write(time.Second, func() {})
	host, port, _ := strings.Cut(z.status("relay"), ":")
	w := z.write(zonesWriter+zonesPatience, func() {
		run(t, z.h, "docker plugin disable -f "+zonesPlugin)
		run(t, z.h, "setsid busybox nc -ll -s "+host+" -p "+port+" -e true </dev/null >/dev/null 2>&1 & echo $! >/run/thief; sleep 1")
		run(t, z.h, "docker plugin enable "+zonesPlugin)
		time.Sleep(3 * time.Second)
		run(t, z.h, "kill $(cat /run/thief)")
	})
	if w.Error != "" || w.Damage != "" || w.Longest > zonesWriter.Seconds() {
		t.Errorf("%+v", w)
	}
	if got := z.status("relay"); got != host+":"+port {
		t.Errorf("the relay was at %s:%s and is at %s", host, port, got)
	}
	if log := run(t, z.h, "grep 'another process has the port' /run/dockerd.log | tail -n 1"); log == "" {
		t.Error("the log does not tell that another process has the port")
	}
}

// twin gives mount targets of two servers with one file system: neither knows what clients
// hold at the other.
func twin(t *testing.T) (first, second *lab.Server) {
	t.Helper()
	l := hosts(t)
	first, err := l.AddServer(t.Context(), "nfs-zones", nil, 41, 42, 43)
	if err != nil {
		t.Fatal(err)
	}
	second, err = l.AddServer(t.Context(), "nfs-twin", first, 51)
	if err != nil {
		t.Fatal(err)
	}
	return first, second
}

func testZonesStates(t *testing.T) {
	first, second := twin(t)
	for _, via := range []string{"relay", "direct"} {
		t.Run("via "+via, func(t *testing.T) {
			z := newZones(t, via, map[string]netip.Addr{"a": first.Addr("a"), "b": second.Addr("a")})
			z.in("who holds no lock goes on", func() {
				z.survives(z.writer(zonesWriter, "-lock=false /data/free", func() { z.fault(first.Reject, "a") }))
				z.toldOfLoss()
			})
			z.in("who holds a lock is told that it is lost, and nothing acknowledged is", func() {
				z.heal()
				z.command("drain b")
				z.command("drain --undo b")
				w := z.write(zonesWriter, func() { z.fault(first.Reject, "a") })
				if !strings.Contains(w.Error, "input/output error") || w.Damage != "" {
					z.t.Errorf("%+v", w)
				}
				z.toldOfLoss()
			})
		})
	}
}

// toldOfLoss waits for the log and the status to tell of a move to a server that did not
// know the client.
func (z *zones) toldOfLoss() {
	z.t.Helper()
	time.Sleep(zonesPatience)
	if log := run(z.t, z.h, "grep -c 'did not know this host' /run/dockerd.log || true"); strings.TrimSpace(log) == "0" {
		z.t.Error("the log does not tell that locks may be lost")
	}
	if status := z.command("status --json"); !strings.Contains(status, `"recoveries"`) {
		z.t.Errorf("the status does not tell of it: %s", status)
	}
}
