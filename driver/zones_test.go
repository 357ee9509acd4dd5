package driver_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// zoneOf is where the home file system is, and what is drained of it.
func zoneOf(h *testHost) (current string, drained []string) {
	f := h.Overview().FileSystems[0]
	for _, t := range f.Targets {
		if t.Drained {
			drained = append(drained, t.Zone)
		}
	}
	return f.Current.Zone, drained
}

// A move costs locks: a restart of the plugin is no reason for one.
func TestMountsStayInTheirZoneOverARestart(t *testing.T) {
	h := newHost(t, "", onTargets("relay", nfsServer(t), nfsServer(t)))
	h.create("data")
	h.mount("data", "1")
	in := func(when, zone, drained string) {
		t.Helper()
		current, all := zoneOf(h)
		if current != zone || strings.Join(all, ",") != drained {
			t.Errorf("%s it is in zone %s, and %q are drained, want %s, %q", when, current, all, zone, drained)
		}
	}
	in("at first", "b", "")
	if err := h.Drain("b", true); err != nil {
		t.Fatal(err)
	}
	in("drained", "a", "b")
	h.restart()
	h.mount("data", "2")
	in("after a restart", "a", "b")
	if moves := h.Overview().FileSystems[0].Moves; len(moves) != 0 {
		t.Errorf("the restart cost moves: %v", moves)
	}
	if err := h.Drain("b", false); err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.mount("data", "3")
	in("no longer drained", "a", "")
	for _, id := range []string{"1", "2", "3"} {
		h.unmount("data", id)
	}
	h.restart()
	h.mount("data", "4")
	in("after a restart with nothing in use", "b", "")
	h.restart()
	h.mount("data", "4")
	in("after one more, in use", "b", "")
	h.unmount("data", "4")
	h.unmount("data", "4")
	if err := h.Drain("b", true); err != nil {
		t.Fatal(err)
	}
	if err := h.Drain("b", false); err != nil {
		t.Fatal(err)
	}
	in("drained and not", "a", "")
	h.mount("data", "5")
	h.stop()
	kept := stateOf("fs-0123456789abcdef0", `{"boot":"another boot","address":"`+h.options.Targets[0].Addr.String()+`"}`)
	if err := os.WriteFile(filepath.Join(h.options.Data, "state/positions"), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.mount("data", "6")
	in("after a reboot", "b", "")
}

// What is mounted is moved when a zone is lost, whatever this host's disk does.
func TestMovesDoNotWaitForThisHostsDisk(t *testing.T) {
	h := newHost(t, "", onTargets("relay", nfsServer(t), nfsServer(t)))
	h.create("data")
	h.mount("data", "1")
	release := h.HangPositions()
	moved := make(chan error, 1)
	h.behind(func() { moved <- h.Drain("b", true) })
	select {
	case err := <-moved:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the move waits")
	}
	release()
	if err := h.Drain("b", false); err != nil { // or it would be avoided in any case
		t.Fatal(err)
	}
	h.restart()
	h.mount("data", "2")
	if current, _ := zoneOf(h); current != "a" {
		t.Errorf("after a restart it is in zone %s", current)
	}
}

// The kernel finds what containers have mounted by the address of its first mount alone, and moves it with
// the mount that shares it.
func TestDirectMountIsFoundAgainByTheAddressOfItsFirst(t *testing.T) {
	a, b := nfsServer(t), nfsServer(t)
	h := newHost(t, "", onTargets("direct", a, b))
	k := h.options.Kernel.(*faults)
	h.create("data")
	h.mount("data", "1")
	_ = h.Drain("b", true) // the kernel here does not take the mount along
	if current, _ := zoneOf(h); current != "a" {
		t.Fatalf("it is in zone %s", current)
	}
	latest := func() netip.AddrPort { return serverOf(k.mounts()[len(k.mounts())-1]) }
	h.restart()
	h.mount("data", "2")
	if n := len(k.mounts()); n != 2 || latest() != b {
		t.Errorf("with a container on it the %d. mount is from %v, want %v", n, latest(), b)
	}
	h.unmount("data", "1")
	h.unmount("data", "2")
	h.restart()
	h.mount("data", "3")
	if n := len(k.mounts()); n != 3 || latest() != a {
		t.Errorf("used by nobody, the %d. mount is from %v, want %v", n, latest(), a)
	}
}

func TestDrainTellsWhatItCannotLeave(t *testing.T) {
	h := newHost(t, "", onTargets("relay", nfsServer(t), closedPort(t)))
	h.options.Zone = "a"
	h.restart()
	h.create("data")
	h.mount("data", "1")
	eventually(t, "the other zone is known to be dead", func() bool {
		for _, one := range h.Overview().FileSystems[0].Targets {
			if one.Zone == "b" {
				return one.Health == proxy.Down
			}
		}
		return false
	})
	err := h.Drain("a", true)
	if !errors.Is(err, proxy.ErrNotLeft) || !strings.Contains(err.Error(), "file system fs-0123456789abcdef0: zone a is in use still") {
		t.Errorf("%v", err)
	}
	if current, drained := zoneOf(h); current != "a" || strings.Join(drained, ",") != "a" {
		t.Errorf("it is in zone %s, and %v are drained", current, drained)
	}
	if err := h.Drain("z", true); err == nil || errors.Is(err, proxy.ErrNotLeft) {
		t.Errorf("a zone that is none: %v", err)
	}
}

func TestDirectMountsKeepTheirPort(t *testing.T) {
	at := func(addresses ...string) (all []proxy.TargetState) {
		for _, one := range addresses {
			all = append(all, proxy.TargetState{Target: proxy.Target{Addr: netip.MustParseAddrPort(one)}})
		}
		return all
	}
	for _, row := range []struct {
		name    string
		targets []proxy.TargetState
		says    string
	}{
		{"all have it", at("10.0.1.5:2049", "10.0.2.5:2049"), ""},
		{"one has another", at("10.0.1.5:2049", "10.0.2.5:2050"), "keeps port 2049"},
	} {
		t.Run(row.name, func(t *testing.T) {
			why := driver.KeepsPort(netip.MustParseAddrPort("10.0.1.5:2049"), row.targets)
			if (why == "") != (row.says == "") || !strings.Contains(why, row.says) {
				t.Errorf("%q, want %q", why, row.says)
			}
		})
	}
}
