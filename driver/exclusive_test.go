package driver_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// A local directory has neither server nor relay: exclusive volumes work there, and say what does
// not hold. What leases do is tested on hosts with a file server, in integration/.
func TestExclusiveVolumeOfALocalDirectory(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data", "access=exclusive")
	h.mount("data", "1")
	if text, _ := h.status("data")["lease"].(string); !strings.HasPrefix(text, "none: a local directory") {
		t.Errorf("Status says %q", text)
	}
	if host, err := h.Preempt(t.Context(), "data"); err == nil || host != "" || !strings.Contains(err.Error(), "no exclusive volume of a file server") {
		t.Errorf("to preempt it: %q, %v", host, err)
	}
	h.unmount("data", "1")
}

func TestExclusiveByDefaultLeavesWhoOnlyReads(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared, func(o *driver.Options) { o.Volume.Access = catalog.AccessExclusive })
	h.create("data")
	h.create("config", "readonly=true")
	for name, want := range map[string]string{"data": `"version": 3`, "config": `"version": 1`} {
		record, err := os.ReadFile(filepath.Join(shared, catalog.DirName, "volumes", name+".json"))
		if err != nil || !strings.Contains(string(record), want) {
			t.Errorf("the record of %s is %s, %v", name, record, err)
		}
	}
}

// exclusively is a host with an exclusive volume on a server. What the server answers is no NFS beyond
// that it is there: a lease cannot be given back there.
func exclusively(t *testing.T, change ...func(*driver.Options)) (*testHost, *faults) {
	k := &faults{export: t.TempDir()}
	h := newHost(t, "", append(change, onServer(nfsServer(t), k))...)
	h.create("data", "access=exclusive")
	return h, k
}

// What does not answer is shut down at the plugin's end, which cannot be taken back: not under a container.
func TestEndLeavesExclusiveVolumesInUse(t *testing.T) {
	h, _ := exclusively(t)
	used := func() bool {
		return slices.ContainsFunc(h.UsedServers(), func(server netip.AddrPort) bool { return server.Addr() == netip.MustParseAddr("127.0.0.2") })
	}
	h.mount("data", "1")
	if !used() {
		t.Error("the mount of a volume in use would be shut down")
	}
	h.unmount("data", "1")
	if used() {
		t.Error("that of a volume that nobody uses would not be")
	}
}

// What docker plugin disable -f has taken away counts no more when the plugin is back, and its containers go on:
// the other hosts are told of them, until Docker tells that they have ended.
func TestOtherHostsAreToldOfContainersThatAreNotCounted(t *testing.T) {
	h, k := exclusively(t)
	h.create("plain")
	h.create("other")
	for _, name := range []string{"data", "plain"} {
		h.mount(name, "1")
	}
	h.stop()
	for _, name := range []string{"data", "plain"} {
		if mounted, err := k.Detach(h.point(name)); !mounted || err != nil {
			t.Fatal(mounted, err)
		}
	}
	h.start()
	h.stop()
	h.start() // nor does another start forget them
	entries := filepath.Join(k.export, catalog.DirName, "hosts")
	entry := func() string {
		all, err := os.ReadDir(entries)
		if err != nil || len(all) != 1 {
			return ""
		}
		text, _ := os.ReadFile(filepath.Join(entries, all[0].Name()))
		if len(text) > 0 && !strings.Contains(string(text), `"data"`) {
			t.Fatalf("an entry without the exclusive volume was written: %s", text)
		}
		return string(text)
	}
	eventually(t, "the entry was written anew", func() bool { return strings.Contains(entry(), `"data"`) })
	h.mount("other", "1") // which writes the entry
	eventually(t, "the entry shows all", func() bool {
		return strings.Contains(entry(), `"data"`) && strings.Contains(entry(), `"plain"`) && strings.Contains(entry(), `"other"`)
	})
	h.unmount("plain", "an ID that has nothing mounted")
	time.Sleep(driver.WithdrawAfter + 100*time.Millisecond)
	if text := entry(); !strings.Contains(text, `"plain"`) {
		t.Errorf("another container's end took it out of the entry: %s", text)
	}
	h.unmount("plain", "1")
	eventually(t, "the entry is without the volume whose container has ended", func() bool { return entry() != "" && !strings.Contains(entry(), `"plain"`) })
}

// Who waits for a lease looks for signs of life in the entry of the host whose ID is in the lease's name.
func TestEachLeaseHasSignsOfLifeOfItsOwnAddress(t *testing.T) {
	h, k := exclusively(t)
	h.mount("data", "1")
	h.stop()
	h.options.FileSystem.Export = "/alias"
	h.start()
	h.create("later", "access=exclusive")
	h.mount("later", "1")
	begun := time.Now()
	for _, name := range []string{"data", "later"} {
		eventually(t, "the entry that shows "+name+" is renewed", func() bool {
			leases, err := filepath.Glob(filepath.Join(k.export, catalog.DirName, "leases", name+"@*", "*_web"))
			if err != nil || len(leases) != 1 {
				t.Fatal(leases, err)
			}
			entry := filepath.Join(k.export, catalog.DirName, "hosts", strings.Split(filepath.Base(leases[0]), "_")[2]+".json")
			info, err := os.Stat(entry)
			if err != nil || !info.ModTime().After(begun) {
				return false
			}
			text, err := os.ReadFile(entry)
			return err == nil && strings.Contains(string(text), `"`+name+`"`)
		})
	}
}

// A mount under way goes on, and so does what it needs: its relay, and with it the lease.
func TestExclusiveMountThatWasGivenUpIsFoundByTheNextCall(t *testing.T) {
	h, k := exclusively(t)
	release := k.hang(t, "open", "127.0.0.2:/export")
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	h.behind(func() {
		eventually(t, "the kernel mounts it", func() bool { return len(exclusiveMounts(k)) > 0 })
		giveUp()
	})
	if err := mountOf(ctx, h, "data", "1"); err == nil {
		t.Fatal("it was mounted")
	}
	release()
	again, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := mountOf(again, h, "data", "2"); err != nil {
		t.Fatal(err)
	}
	if n := len(exclusiveMounts(k)); n != 1 {
		t.Errorf("%d mounts were begun, want the one that was under way", n)
	}
}

func exclusiveMounts(k *faults) []mount.Mount {
	var all []mount.Mount
	for _, m := range k.mounts() {
		if strings.HasPrefix(m.Source, "127.0.0.2:") {
			all = append(all, m)
		}
	}
	return all
}

// What the kernel of a host that is cut off has sent and nobody has acknowledged is gone before another host may write.
func TestConnectionsEndWithinATerm(t *testing.T) {
	if tcp.UserTimeout >= lease.Term {
		t.Errorf("sent bytes are kept for %v, and a lease can be taken after %v", tcp.UserTimeout, lease.Term)
	}
}

// What is damaged is named, and what to do about it: a volume's record is neither a lease nor a host's entry.
func TestDamageOfWhatLeasesNeed(t *testing.T) {
	hosts, export, _ := leasing(t, "a", "b")
	a, b := hosts[0], hosts[1]
	inside := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(export, catalog.DirName, pattern))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		return found[0]
	}
	refused := func(want ...string) {
		t.Helper()
		text := fmt.Sprint(mountOf(t.Context(), b, "data", "1"))
		for _, one := range want {
			if !strings.Contains(text, one) {
				t.Errorf("a mount says %q, which has no %q", text, one)
			}
		}
	}
	a.mount("data", "1")
	entry := inside("hosts/*.json")
	if err := os.WriteFile(entry, []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("its entry is damaged: .docker-volume-efs/hosts/"+filepath.Base(entry), "remove that file if its host is gone")
	a.create("another")
	a.mount("another", "1") // writes the entry anew
	a.unmount("data", "1")
	eventually(t, "the lease is given back", func() bool { return a.status("data")["lease"] == "not this host's" })

	dir := inside("leases/data@*")
	if err := os.WriteFile(filepath.Join(dir, "1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("its lease is damaged: .docker-volume-efs/leases/"+filepath.Base(dir)+" has 2 names", "remove its directory in .docker-volume-efs/leases")
	eventually(t, "its removal is told the same", func() bool {
		return strings.Contains(fmt.Sprint(b.Remove(t.Context(), "data")), "its lease is damaged")
	})
	if err := os.Remove(filepath.Join(dir, "1")); err != nil {
		t.Fatal(err)
	}
	b.mount("data", "1")
	b.unmount("data", "1")
	eventually(t, "the lease is given back", func() bool { return b.status("data")["lease"] == "not this host's" })
	if err := os.Rename(inside("leases/data@*/*"), filepath.Join(dir, "no lease's name")); err != nil {
		t.Fatal(err)
	}
	refused("its lease is damaged", `"no lease's name"`, "remove its directory in .docker-volume-efs/leases")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	b.mount("data", "1")
}
