//go:build integration

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func (z *zones) testLoss() {
	z.write(time.Second, func() {})
	if got := z.status("zone"); got != "a" {
		z.t.Fatalf("it begins in zone %s, not in its own", got)
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
	if got, want := z.status("transport"), "NFSv4.1, "+z.via; got != want {
		z.t.Errorf("the transport is %s, want %s", got, want)
	}
}

// testPages comes after two moves.
func (z *zones) testPages() {
	for _, row := range []struct{ path, want string }{
		{"/healthz", "ok"},
		{"/metrics", `efs_moves_total{cause="`},
		{"/metrics", `efs_target_in_use{filesystem="nfs://` + z.server.Addr("a").String() + `/export",`},
		{"/status.json", `"cause":`},
		{"/", z.server.Addr("b").String()},
	} {
		out := run(z.t, z.h, "curl --silent --show-error --fail http://"+zonesHTTP+row.path)
		if !strings.Contains(out, row.want) {
			z.t.Errorf("%s does not have %s: %s", row.path, row.want, out[:min(len(out), 2000)])
		}
	}
}

func (z *zones) testPlugin() {
	z.configure(`{"live-restore": true}`)
	const worker, parent = "pkill -9 -f '^docker-volume-efs-worker serve'", "pkill -9 -f '^/docker-volume-efs serve'"
	for _, row := range []struct{ name, line string }{
		{"two kills of the worker", worker + "; sleep 1; " + worker},
		{"a kill of the whole plugin", parent},
		{"disable -f and enable", "docker plugin disable -f " + zonesPlugin + " && docker plugin enable " + zonesPlugin},
		{"a restart of dockerd with live-restore", "stop-docker KILL; sleep 2; start-docker"},
	} {
		z.in(row.name, func() {
			z.survives(z.write(zonesWriter, func() { run(z.t, z.h, row.line) }))
		})
	}
}

// testRestart has the plugin disabled and enabled while a container writes that was moved before, and then takes the
// zone away where it is.
func (z *zones) testRestart() {
	w := z.write(zonesWriter+40*time.Second, func() {
		begun := z.status("zone")
		z.command("drain " + begun)
		lost := z.leaves(begun)
		run(z.t, z.h, "docker plugin disable -f "+zonesPlugin+" && docker plugin enable "+zonesPlugin+" && docker volume inspect "+zonesVolume+" >/dev/null")
		z.settle()
		if got := z.known("zone"); got != lost {
			z.t.Errorf("it was moved from zone %s to %s, and is in zone %s after a restart", begun, lost, got)
		}
		z.command("drain --undo " + begun)
		z.fault(z.server.Reject, lost)
	})
	if w.Error != "" || w.Damage != "" || w.Longest > zonesPatience.Seconds() {
		z.t.Errorf("%+v", w)
	}
	z.known("zone")
}

// testHeal has a zone fall silent for so short that nothing should move. On a busy machine it may be longer: then it
// is tried again.
func (z *zones) testHeal() {
	const silence, tries = 2 * time.Second, 3
	for try := range tries {
		zone, from := z.status("zone"), z.logLines()
		var lasted time.Duration
		z.survives(z.write(10*time.Second, func() {
			begun := time.Now()
			z.fault(z.server.Drop, zone)
			time.Sleep(silence)
			z.heal()
			lasted = time.Since(begun)
		}))
		n, got := z.moves(from), z.status("zone")
		if n == 0 && got == zone {
			return
		}
		if lasted < silence+silence/4 || try == tries-1 {
			z.t.Fatalf("after %d moves and a silence of %v it is in zone %s", n, lasted, got)
		}
		z.t.Logf("a silence of %v is too long to say anything", lasted)
		z.settle()
	}
}

func (z *zones) testFlap() {
	zone, from := z.status("zone"), z.logLines()
	z.survives(z.write(35*time.Second, func() {
		for range 5 {
			z.fault(z.server.Reject, zone)
			time.Sleep(3 * time.Second)
			z.heal()
			time.Sleep(3 * time.Second)
		}
	}))
	if n := z.moves(from); n < 1 || n > 2 {
		z.t.Errorf("%d moves", n)
	}
}

func (z *zones) testAll() {
	const lost = 8 * time.Second
	was := z.status("zone")
	w := z.write(lost+2*zonesWriter, func() {
		for zone := range z.targets {
			z.fault(z.server.Drop, zone)
		}
		time.Sleep(lost)
		z.heal()
		for zone := range z.targets {
			if zone != "c" {
				z.fault(z.server.Drop, zone)
			}
		}
	})
	if w.Error != "" || w.Damage != "" || w.Longest > (lost+zonesPatience).Seconds() {
		z.t.Errorf("%+v", w)
	}
	if got := z.status("zone"); got != "c" {
		z.t.Errorf("it was in zone %s and is in zone %s", was, got)
	}
}

func (z *zones) testDirections() {
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
		})
	}
}

func (z *zones) testDrain() {
	z.survives(z.writer(20*time.Second, "-names /data/names-"+z.via, func() {
		for range 4 {
			zone := z.status("zone")
			z.command("drain " + zone)
			z.leaves(zone)
			z.command("drain --undo " + zone)
		}
	}))
}

// leaves waits until the volume is not in a zone that is drained, and returns where it is.
func (z *zones) leaves(zone string) string {
	z.t.Helper()
	for begun := time.Now(); time.Since(begun) < zonesPatience; time.Sleep(200 * time.Millisecond) {
		if now := z.status("zone"); now != zone {
			return now
		}
	}
	z.t.Errorf("zone %s is drained and in use", zone)
	return zone
}

// testPort: the port of a relay is what mounts of running containers connect to, no other
// will do.
func (z *zones) testPort() {
	z.write(time.Second, func() {})
	host, port, _ := strings.Cut(z.status("relay"), ":")
	const thief = `perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalAddr => "%s:%s", Listen => 9, ReuseAddr => 1) or die "listen: $@"; ` +
		`while ($c = $s->accept) { close $c }' </dev/null >/run/thief.log 2>&1 & echo $! >/run/thief; sleep 1; kill -0 $(cat /run/thief) || cat /run/thief.log`
	var outage time.Duration
	w := z.write(2*zonesWriter, func() {
		begun := time.Now()
		defer func() { outage = time.Since(begun) }()
		run(z.t, z.h, "docker plugin disable -f "+zonesPlugin)
		if said := run(z.t, z.h, fmt.Sprintf(thief, host, port)); said != "" {
			z.t.Fatal(said)
		}
		run(z.t, z.h, "docker plugin enable "+zonesPlugin)
		time.Sleep(3 * time.Second)
		run(z.t, z.h, "kill $(cat /run/thief)")
	})
	// The kernel waits twice as long after each try, at first 3 s (xs_reconnect_delay).
	if w.Error != "" || w.Damage != "" || w.Longest > 2*outage.Seconds()+3 {
		z.t.Errorf("%+v after an outage of %v", w, outage)
	}
	// The plugin's own mount shares the kernel's connection, and its pauses.
	if got := z.known("relay"); got != host+":"+port {
		z.t.Errorf("the relay was at %s:%s and is at %s", host, port, got)
	}
	if log := run(z.t, z.h, "grep 'another process has the port' /run/dockerd.log | tail -n 1"); log == "" {
		z.t.Error("the log does not tell that another process has the port")
	}
}

// testStates has mount targets of two servers with one file system: neither knows what
// clients hold at the other.
func (p zonesPlace) testStates(t *testing.T, via string) {
	first, twin := p.servers(t)
	z := p.install(t, via, map[string]netip.Addr{"a": first.Addr("a"), "b": twin.Addr("a")})
	for _, row := range []struct {
		name, args string
		as         func(written)
	}{
		{"who holds no lock goes on", "-lock=false /data/free", z.survives},
		{"who holds a lock is told that it is lost, and nothing acknowledged is", "/data/locked", func(w written) {
			if !strings.Contains(w.Error, "input/output error") || w.Damage != "" {
				z.t.Errorf("%+v", w)
			}
		}},
	} {
		z.in(row.name, func() {
			z.enter("a")
			from := z.logLines()
			row.as(z.writer(zonesWriter, row.args, func() { z.fault(first.Reject, "a") }))
			z.toldOfLoss(from)
		})
	}
}

// toldOfLoss waits for the log and the status to tell of a move to a server that did not
// know the client.
func (z *zones) toldOfLoss(since int) {
	z.t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Second) {
		if z.number(run(z.t, z.h, fmt.Sprintf("tail -n +%d /run/dockerd.log | grep -c 'did not know this host' || true", since+1))) > 0 {
			break
		}
		if time.Since(begun) > zonesPatience {
			z.t.Error("the log does not tell that locks may be lost")
			break
		}
	}
	if status := z.command("status --json"); !strings.Contains(status, `"recoveries"`) {
		z.t.Errorf("the status does not tell of it: %s", status)
	}
}
