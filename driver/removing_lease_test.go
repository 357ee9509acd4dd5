package driver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

// leasing are hosts of one server with an exclusive volume "data".
func leasing(t *testing.T, names ...string) (hosts []*testHost, export string, server *sessiontest.Server) {
	t.Helper()
	addr, server := leaseServer(t)
	export = t.TempDir()
	for _, name := range names {
		hosts = append(hosts, newHost(t, "", onServer(addr, &faults{export: export}), func(o *driver.Options) { o.Host = name }))
	}
	hosts[0].create("data", "access=exclusive")
	return hosts, export, server
}

// A removal's look is over when the volume is mounted elsewhere: it is refused, and takes nothing from that host.
func TestRemovalTakesNoLeaseFromAHostThatLives(t *testing.T) {
	hosts, _, server := leasing(t, "a", "b")
	a, b := hosts[0], hosts[1]
	b.mount("data", "1")
	b.write("data", "file", "rows")
	owner := ownerOf(t, b.options.Kernel.(*faults))
	server.Mount(owner, 0)
	if err := a.RemoveLate(t.Context(), "data"); err == nil || !strings.Contains(err.Error(), "host b uses it") {
		t.Errorf("the removal says %v", err)
	}
	if got := b.status("data")["lease"]; got != "this host's" {
		t.Errorf("its lease: %v", got)
	}
	if clients, _ := server.Has(owner); clients != 1 {
		t.Error("its NFS client was evicted")
	}
	b.wantFile("data", "file", "rows")
	b.unmount("data", "1")
	eventually(t, "the lease is given back", func() bool { return b.status("data")["lease"] == "not this host's" })
	a.removeSoon("data")
}

// A removal that has found a lease goes on late: another host has ended it, and made the volume anew.
func TestRemovalThatAnotherHostHasEndedTakesNoLease(t *testing.T) {
	hosts, _, server := leasing(t, "a", "b")
	a, b := hosts[0], hosts[1]
	b.mount("data", "1")
	owner := ownerOf(t, b.options.Kernel.(*faults))
	server.Mount(owner, 0)
	if err := a.FreeLease(t.Context(), "data"); err != nil {
		t.Error(err)
	}
	if got := b.status("data")["lease"]; got != "this host's" {
		t.Errorf("its lease: %v", got)
	}
	if clients, _ := server.Has(owner); clients != 1 {
		t.Error("its NFS client was evicted")
	}
}

// Who had the volume may write still: nobody may have it be gone, nor half gone for ever.
func TestVolumeStaysWhoseHostCannotBeEvicted(t *testing.T) {
	for _, row := range []struct {
		name   string
		remove func(h *testHost) error
	}{
		{"when it is removed", func(h *testHost) error { return h.Remove(h.t.Context(), "data") }},
		{"when it is made anew", func(h *testHost) error { return h.Create(h.t.Context(), "data", opts("access=exclusive")) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			hosts, export, server := leasing(t, "a", "paused")
			a, paused := hosts[0], hosts[1]
			paused.mount("data", "1")
			paused.write("data", "file", "rows")
			server.Mount(ownerOf(t, paused.options.Kernel.(*faults)), 1000) // which only that user may replace
			paused.stop()
			t.Cleanup(paused.start) // what it holds ends as its container would
			dropHosts(t, export)
			beginRemoval(t, export)
			wantKind(t, row.remove(a), driver.Conflict, "it stays", "evict host paused", "NFS4ERR_CLID_INUSE")
			record, err := os.ReadFile(filepath.Join(export, catalog.DirName, "volumes/data.json"))
			if err != nil || !strings.Contains(string(record), `"ready"`) {
				t.Errorf("its record: %s, %v", record, err)
			}
			if !exists(t, filepath.Join(export, "data/file")) {
				t.Error("its data is gone")
			}
		})
	}
}

// A host that was paused, and dropped by the others, holds a lease: who removes its volume evicts it first, also
// one that comes upon a removal that another host had begun.
func TestRemovalEvictsAHostThatCountsAsDead(t *testing.T) {
	for _, row := range []struct {
		name   string
		remove func(t *testing.T, h *testHost, export string)
	}{
		{"a Remove", func(_ *testing.T, h *testHost, _ string) { h.removeSoon("data") }},
		{"a Remove that was begun before", func(t *testing.T, h *testHost, export string) {
			beginRemoval(t, export)
			h.removeSoon("data")
		}},
		{"a Create that finishes another host's", func(t *testing.T, h *testHost, export string) {
			beginRemoval(t, export)
			h.create("data", "access=exclusive")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			hosts, export, server := leasing(t, "a", "paused")
			a, paused := hosts[0], hosts[1]
			paused.mount("data", "1")
			paused.write("data", "file", "rows")
			owner := ownerOf(t, paused.options.Kernel.(*faults))
			server.Mount(owner, 0)
			paused.stop()
			t.Cleanup(paused.start) // what it holds ends as its container would
			dropHosts(t, export)
			row.remove(t, a, export)
			if clients, _ := server.Has(owner); clients != 0 {
				t.Error("the paused host's NFS client is not evicted")
			}
			if got := trash(t, export); len(got) != 1 || !exists(t, filepath.Join(got[0], "file")) {
				t.Errorf("trash %v", got)
			}
		})
	}
}

// dropHosts has nobody be told of any host.
func dropHosts(t *testing.T, export string) {
	t.Helper()
	dir := filepath.Join(export, catalog.DirName, "hosts")
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
}
