//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// zonesPlace is a host, the server with a mount target in each of three zones, and another
// with the same file system that knows nothing of the first one's clients.
type zonesPlace struct {
	host          string
	server, twin  string
	addresses     [3]byte // the last byte of each target's address
	addressOfTwin byte
}

// Two places, so that two halves of the test run side by side: they mostly wait.
var (
	zonesFirst  = zonesPlace{"host-c", "zones-c", "twin-c", [3]byte{41, 42, 43}, 51}
	zonesSecond = zonesPlace{"host-d", "zones-d", "twin-d", [3]byte{44, 45, 46}, 54}
)

// zones is a plugin of its own on a host of its own, whose file system has a mount target in
// each of three zones; its home is zone a.
type zones struct {
	owner   *testing.T
	t       *testing.T // the part of the test at work
	h       *lab.Host
	engine  *http.Client
	server  *lab.Server
	targets map[string]netip.Addr
	via     string
}

const (
	zonesPlugin = "zones"
	zonesVolume = "kept"
	zonesHTTP   = "127.0.0.1:9199"
	// zonesBegin is how long a container takes to be at work.
	zonesBegin = 3 * time.Second
	// zonesWriter is how long a writer writes: more than the slowest move may take.
	zonesWriter = 14 * time.Second
	// zonesPatience is far above what a move or a start of the plugin takes, on a busy machine
	// too (26 s were seen), and below the minute and more that the kernel's client waits by itself.
	zonesPatience = 40 * time.Second
)

// TestZones runs beside other tests: its hosts and its servers are used by nobody else.
func TestZones(t *testing.T) {
	t.Parallel()
	t.Run(zonesFirst.host, func(t *testing.T) {
		apart(t, zonesFirst.host)
		t.Run("one file system", func(t *testing.T) {
			z := zonesFirst.install(t, "relay", nil)
			z.testBoth()
			z.in("a mount target that comes and goes costs two moves", z.testFlap)
			z.in("packets are lost in one direction", z.testDirections)
			z.in("a writer survives the plugin", z.testPlugin)
			z.in("a writer survives docker plugin upgrade", z.testUpgrade)
			z.in("the port of the relay is taken", z.testPort)
			z.in("processes get nothing from the relay", z.testAdmission)
		})
		t.Run("mount targets that share no state", func(t *testing.T) { zonesFirst.testStates(t, "relay") })
	})
	t.Run(zonesSecond.host, func(t *testing.T) {
		apart(t, zonesSecond.host)
		t.Run("one file system", func(t *testing.T) { zonesSecond.install(t, "direct", nil).testBoth() })
		t.Run("mount targets that share no state", func(t *testing.T) { zonesSecond.testStates(t, "direct") })
		t.Run("gateways", zonesSecond.testGateways)
		t.Run("Postgres", zonesSecond.testPostgres)
	})
}

// testBoth has what must hold on both paths.
func (z *zones) testBoth() {
	z.in("a writer survives the loss of zones", z.testLoss)
	z.in("metrics, health and the page tell of it", z.testPages)
	z.in("what heals by itself is not left", z.testHeal)
	z.in("all are lost, and one comes back", z.testAll)
	z.in("a drained zone is left, and names are made once", z.testDrain)
	z.in("a restart moves nothing, and what is mounted is moved on", z.testRestart)
}

// servers starts the place's two servers.
func (p zonesPlace) servers(t *testing.T) (first, twin *lab.Server) {
	t.Helper()
	l := hosts(t)
	first, err := l.AddServer(t.Context(), lab.ServerOptions{Name: p.server, Addresses: lab.Addresses(p.addresses[:]...)})
	if err != nil {
		t.Fatal(err)
	}
	twin, err = l.AddServer(t.Context(), lab.ServerOptions{Name: p.twin, Of: first, Addresses: lab.Addresses(p.addressOfTwin)})
	if err != nil {
		t.Fatal(err)
	}
	return first, twin
}

// install installs the plugin and makes a volume. The targets are those of the first
// server, or others.
func (p zonesPlace) install(t *testing.T, via string, targets map[string]netip.Addr) *zones {
	t.Helper()
	server, _ := p.servers(t)
	if targets == nil {
		targets = map[string]netip.Addr{}
		for _, zone := range []string{"a", "b", "c"} {
			targets[zone] = server.Addr(zone)
		}
	}
	h := hosts(t).Host(p.host)
	z := &zones{owner: t, t: t, h: h, engine: socketClient(h, "/run/docker.sock"), server: server, targets: targets, via: via}
	if err := bundle.Upload(t.Context(), z.h, siteBundle); err != nil {
		t.Fatal(err)
	}
	if err := z.h.Upload(t.Context(), "../build/lab/writer", "/root/writer", 0o755); err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, zone := range slices.Sorted(maps.Keys(targets)) {
		words = append(words, zone+"="+targets[zone].String())
	}
	settings := []string{
		"EFS_FILESYSTEM=nfs://" + server.Addr("a").String() + "/export", "EFS_ROOT=/zones",
		"EFS_TARGETS=" + strings.Join(words, ","), "EFS_ZONE=a", "EFS_VIA=" + via, "EFS_HTTP=" + zonesHTTP,
	}
	t.Cleanup(z.remove)
	run(t, z.h, "docker plugin create "+zonesPlugin+" /root/plugin && docker plugin set "+zonesPlugin+" "+strings.Join(settings, " ")+
		" && docker plugin enable "+zonesPlugin+" && docker volume create -d "+zonesPlugin+" "+zonesVolume)
	return z
}

func (z *zones) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	z.t = z.owner
	defer z.engine.CloseIdleConnections()
	if z.owner.Failed() {
		out, err := z.h.Run(ctx, "grep 'plugin=' /run/dockerd.log | tail -n 60; ss -tn; cd /sys/kernel/sunrpc/xprt-switches && grep -r . */*-tcp; docker ps -a")
		record(z.t, "zones.log", fmt.Sprint(out, err))
	}
	if err := z.server.Heal(ctx); err != nil {
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
	Damage  string    `json:"damage"`
}

// isWell tells whether the writer had no error and did not stand still for too long.
func (w written) isWell() bool {
	return w.Error == "" && w.Damage == "" && w.Writes > 0 && w.Longest <= zonesPatience.Seconds()
}

// write has a container write with a lock held, and calls happen in the midst of it.
func (z *zones) write(lasts time.Duration, happen func()) written {
	z.t.Helper()
	return z.writer(lasts, "/data/file", happen)
}

// writer is write with the writer's own arguments.
func (z *zones) writer(lasts time.Duration, args string, happen func()) written {
	z.t.Helper()
	// Without a name: an Engine that was killed with live-restore keeps a name's place in the network. The report goes to a file:
	// what a container says that ends while there is no Engine is lost.
	container := strings.TrimSpace(run(z.t, z.h, fmt.Sprintf("mkdir -p /root/reports && docker run -d --network none -v %s:/data -v /root/writer:/writer:ro "+
		"-v /root/reports:/reports busybox sh -c 'exec /writer -for %s %s >/reports/$HOSTNAME'", zonesVolume, lasts, args)))
	time.Sleep(min(lasts, zonesBegin))
	happen()
	out := run(z.t, z.h, "docker wait "+container+" >/dev/null; cat /root/reports/"+container[:12]+"; docker rm "+container+" >/dev/null")
	var w written
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		z.t.Fatalf("the writer says %q: %v", out, err)
	}
	z.t.Logf("%s: %d writes, longest %.2f s, stalls %.2f", z.via, w.Writes, w.Longest, w.Stalls)
	return w
}

// command runs one of the plugin's own commands on the host.
func (z *zones) command(words string) string {
	z.t.Helper()
	return run(z.t, z.h, "d=/var/lib/docker/plugins/$(docker plugin inspect -f '{{.Id}}' "+zonesPlugin+
		"); $d/rootfs/docker-volume-efs "+words+" --data $d/propagated-mount || [ $? = 1 ]")
}

// moves counts what the log tells of moves since a line of it.
func (z *zones) moves(since int) int {
	z.t.Helper()
	out := run(z.t, z.h, fmt.Sprintf("tail -n +%d /run/dockerd.log | grep -c ': moved from' || true", since+1))
	return z.number(out)
}

// logLines is how long the log is.
func (z *zones) logLines() int {
	z.t.Helper()
	return z.number(run(z.t, z.h, "wc -l </run/dockerd.log"))
}

func (z *zones) number(text string) int {
	z.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		z.t.Fatal(err)
	}
	return n
}

// in runs a part of the test, with all mount targets well and out of any doubt.
func (z *zones) in(name string, part func()) {
	outer := z.t
	outer.Run(name, func(t *testing.T) {
		z.t = t
		z.heal()
		z.settle()
		part()
	})
	z.t = outer
}

// settle waits until the plugin knows that all mount targets are well again.
func (z *zones) settle() {
	z.t.Helper()
	var status struct {
		FileSystems []struct {
			Targets []struct {
				Health string `json:"health"`
			} `json:"targets"`
		} `json:"filesystems"`
	}
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(time.Second) {
		// It tells of trouble by its exit status too, and is silent while the worker starts.
		out := z.command("status --json")
		well := json.Unmarshal([]byte(out), &status) == nil
		for _, f := range status.FileSystems {
			for _, target := range f.Targets {
				well = well && target.Health == "up"
			}
		}
		if well {
			return
		}
	}
	z.t.Fatalf("mount targets are not well again: %+v", status)
}

// enter goes to a zone.
func (z *zones) enter(zone string) {
	z.t.Helper()
	for other := range z.targets {
		if other != zone {
			z.command("drain " + other)
			defer z.command("drain --undo " + other)
		}
	}
	for range 20 {
		if z.status("zone") == zone {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	z.t.Fatalf("it does not go to zone %s", zone)
}

// fault breaks or heals something on the server.
func (z *zones) fault(do func(context.Context, netip.Addr) error, zone string) {
	z.t.Helper()
	if err := do(z.t.Context(), z.targets[zone]); err != nil {
		z.t.Fatal(err)
	}
}

func (z *zones) heal() {
	z.t.Helper()
	if err := z.server.Heal(z.t.Context()); err != nil {
		z.t.Fatal(err)
	}
}

// status is a field of the volume's Status, which is "" until the plugin knows it.
func (z *zones) status(field string) string {
	z.t.Helper()
	return volumeStatus(z.t, z.engine, zonesVolume, field)
}

// known is status after a start of the plugin, which may not have looked at its mounts yet.
func (z *zones) known(field string) (value string) {
	z.t.Helper()
	for begun := time.Now(); time.Since(begun) < zonesPatience; time.Sleep(time.Second) {
		if value = z.status(field); value != "" {
			return value
		}
	}
	z.t.Errorf("the volume's status has no %s", field)
	return ""
}

// survives fails the test if the writer had an error or stood still for too long.
func (z *zones) survives(w written) {
	z.t.Helper()
	if !w.isWell() {
		z.t.Errorf("%+v", w)
	}
}
