package driver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// someUser is whom a directory can be given to. Who is not root has nobody but root in the namespaces of
// the tests.
func someUser(t *testing.T) (uid, gid uint32) {
	t.Helper()
	if err := os.Chown(t.TempDir(), 70, 71); err != nil {
		return 0, 0
	}
	return 70, 71
}

func TestAccessPointOfAVolumesOwn(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) { o.Root = "/apps" })
	uid, gid := someUser(t)
	for range 2 {
		e.create("web", "accesspoint=create", fmt.Sprint("uid=", uid), fmt.Sprint("gid=", gid), "mode=0750")
	}
	points := e.accessPoints()
	if len(points) != 1 {
		t.Fatalf("access points %v", points)
	}
	for id, p := range points {
		if p.Path != "/apps/web" || *p.UID != uid || *p.GID != gid || p.Mode != 0o750 || p.Volume != "web" || p.Owner == "" || p.FileSystem.ID != fsID {
			t.Errorf("access point %+v", p)
		}
		e.mount("web", "1")
		if got := e.status("web")["access_point"]; got != id {
			t.Errorf("mounted by %v", got)
		}
		if !strings.Contains(e.certificates(), id) {
			t.Error("no certificate has it")
		}
	}
	info, err := os.Stat(filepath.Join(e.export, "apps/web"))
	if err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("its directory: %v, %v", info, err)
	}
	e.unmount("web", "1")
	e.remove("web")
	if left := e.accessPoints(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if exists(t, filepath.Join(e.export, "apps/web")) {
		t.Error("the directory is still there")
	}
}

// A build server makes and removes volumes all day.
func TestAccessPointsThatAreGoneLeaveNothingOnAnyHost(t *testing.T) {
	for _, row := range []struct {
		name   string
		rounds int
		warm   time.Duration
	}{
		{"where volumes of one name come and go", 5, warm},
		{"where a volume is still mounted for the next container", 1, time.Hour},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := newEFSHost(t)
			other := newHost(t, "", func(o *driver.Options) {
				*o = e.options
				o.Data, o.Host, o.Warm = t.TempDir(), "other", row.warm
			})
			hosts := map[string]*testHost{"who removes them": e.testHost, "another host": other}
			for who, h := range hosts {
				eventually(t, who+" has the catalogue", func() bool { return h.RelaysKept() == 1 })
			}
			for range row.rounds {
				e.create("web", "accesspoint=create")
				for _, h := range hosts {
					h.mount("web", "1")
					h.unmount("web", "1")
					eventually(t, "it is detached", func() bool { return row.warm > warm || !h.mounted()["web"] })
				}
				eventually(t, "there are the volume's relays and the catalogue's", func() bool {
					return e.RelaysKept() == 2 && other.RelaysKept() == 2
				})
				e.remove("web")
			}
			for who, h := range hosts {
				eventually(t, who+" knows that they are gone", func() bool {
					volumes, _ := h.List(t.Context())
					return len(volumes) == 0
				})
				eventually(t, who+" has the catalogue's relay alone", func() bool {
					return h.RelaysKept() == 1 && len(h.Overview().FileSystems[0].Transports) == 1 && !h.mounted()["web"]
				})
			}
		})
	}
}

// The directory is made before the access point, which then leaves it as it is: whom the server takes
// every client for must be whom it belongs to.
func TestAccessPointsUserHasTheDirectory(t *testing.T) {
	for _, row := range []struct {
		name     string
		options  []string
		uid, gid uint32
	}{
		{"with a uid alone", []string{"uid=1000"}, 1000, 1000},
		{"with a gid alone", []string{"gid=1000"}, 1000, 1000},
		{"with both", []string{"uid=1000", "gid=1001"}, 1000, 1001},
		{"with neither", nil, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			if uid, _ := someUser(t); uid == 0 && row.options != nil {
				t.Skip("needs root, to give a directory to somebody else")
			}
			e := newEFSHost(t)
			e.create("web", append(row.options, "accesspoint=create")...)
			info, err := os.Stat(filepath.Join(e.export, "web"))
			if err != nil {
				t.Fatal(err)
			}
			if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != row.uid || owner.Gid != row.gid {
				t.Errorf("the directory belongs to %d:%d", owner.Uid, owner.Gid)
			}
			for _, p := range e.accessPoints() {
				if (p.UID == nil) != (row.options == nil) || p.UID != nil && (*p.UID != row.uid || *p.GID != row.gid) {
					t.Errorf("access point %+v", p)
				}
			}
		})
	}
	t.Run("and a volume without one has what was asked for", func(t *testing.T) {
		if uid, _ := someUser(t); uid == 0 {
			t.Skip("needs root, to give a directory to somebody else")
		}
		e := newEFSHost(t)
		e.create("web", "gid=1000")
		info, err := os.Stat(filepath.Join(e.export, "web"))
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != 0 || owner.Gid != 1000 {
			t.Errorf("the directory belongs to %d:%d", owner.Uid, owner.Gid)
		}
	})
}

func TestAccessPointOfAVolumesOwnOnBadDays(t *testing.T) {
	t.Run("Create fails and is repeated", func(t *testing.T) {
		e := newEFSHost(t)
		e.set(func() { e.down = errors.New("AccessPointLimitExceeded") })
		err := e.Create(t.Context(), "web", opts("accesspoint=create"))
		wantKind(t, err, driver.Failed, "AccessPointLimitExceeded")
		if _, err := e.Get(t.Context(), "web"); err == nil {
			t.Error("a volume is left behind")
		}
		e.set(func() { e.down = nil })
		e.create("web", "accesspoint=create")
		if len(e.accessPoints()) != 1 {
			t.Errorf("access points %v", e.accessPoints())
		}
	})
	t.Run("Remove fails and is repeated", func(t *testing.T) {
		for _, policy := range []string{"keep", "trash", "delete"} {
			e := newEFSHost(t)
			e.create("web", "accesspoint=create", "remove="+policy)
			e.set(func() { e.down = errors.New("throttled") })
			wantKind(t, e.Remove(t.Context(), "web"), driver.Failed, "throttled")
			e.set(func() { e.down = nil })
			e.remove("web")
			if len(e.accessPoints()) != 0 || exists(t, filepath.Join(e.export, "web")) != (policy == "keep") {
				t.Errorf("%s: access points %v", policy, e.accessPoints())
			}
		}
	})
	t.Run("a directory that is there is kept", func(t *testing.T) {
		e := newEFSHost(t)
		if err := os.Mkdir(filepath.Join(e.export, "web"), 0o700); err != nil {
			t.Fatal(err)
		}
		e.create("web", "accesspoint=create")
		e.remove("web")
		if len(e.accessPoints()) != 0 || !exists(t, filepath.Join(e.export, "web")) {
			t.Errorf("access points %v, or the directory has gone", e.accessPoints())
		}
	})
	t.Run("another one than asked for is a conflict", func(t *testing.T) {
		e := newEFSHost(t)
		e.create("web", "accesspoint=create", "uid=0")
		wantKind(t, e.Create(t.Context(), "web", opts("accesspoint="+someAP)), driver.Conflict, "accesspoint is")
		wantKind(t, e.Create(t.Context(), "web", opts("accesspoint=create", "uid=71")), driver.Conflict, "uid is")
	})
	t.Run("a path too long for EFS is refused", func(t *testing.T) {
		e := newEFSHost(t)
		wantKind(t, e.Create(t.Context(), "web", opts("accesspoint=create", "path=/1/2/3/4/5")), driver.Invalid, "shorter path")
		wantKind(t, e.Create(t.Context(), "web", opts("accesspoint=create", "path=/"+strings.Repeat("x", 100))), driver.Invalid, "shorter path")
		if n := len(e.accessPoints()); n != 0 {
			t.Errorf("%d access points", n)
		}
	})
	t.Run("the home file system's own is none of a volume's", func(t *testing.T) {
		e := newEFSHost(t, func(o *driver.Options) { o.AccessPoint = someAP })
		wantKind(t, e.Create(t.Context(), "web", opts("accesspoint="+someAP, "path=/web")), driver.Invalid, "EFS_ACCESS_POINT", "leave the option out")
	})
	t.Run("its path begins where the catalogue's access point does", func(t *testing.T) {
		const home = "fsap-00000000000000aaa"
		e := newEFSHost(t, func(o *driver.Options) {
			o.AccessPoint = home
			o.Cloud.(*aws).points = map[string]cloud.AccessPoint{home: {ID: home, Path: "/team"}}
		})
		e.create("web", "accesspoint=create")
		for id, p := range e.accessPoints() {
			if id != home && p.Path != "/team/web" {
				t.Errorf("access point %+v", p)
			}
		}
	})
}

// Somebody else's access point is used as it is, and nothing in it is ever removed.
func TestAccessPointOfSomebodyElse(t *testing.T) {
	for _, policy := range []string{"keep", "trash", "delete"} {
		e := newEFSHost(t)
		if err := os.WriteFile(filepath.Join(e.export, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		e.create("part", "accesspoint="+someAP, "path=/part", "remove="+policy, "mode=0700")
		e.mount("part", "1")
		e.unmount("part", "1")
		if info, err := os.Stat(filepath.Join(e.export, "part")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its directory: %v, %v", info, err)
		}
		if got := e.status("part")["path"]; got != "/part" {
			t.Errorf("path %v", got)
		}
		e.remove("part")
		if !exists(t, filepath.Join(e.export, "part")) || len(trash(t, e.export)) != 0 {
			t.Errorf("%s: the directory has gone", policy)
		}
	}
	t.Run("which shows a catalogue is refused", func(t *testing.T) {
		e := newEFSHost(t)
		wantKind(t, e.Create(t.Context(), "whole", opts("accesspoint="+someAP)), driver.Invalid, "catalogue")
		if _, err := e.Get(t.Context(), "whole"); err == nil {
			t.Error("a volume is left behind")
		}
	})
}

// What another host does while AWS takes its time must not be undone.
func TestAnotherHostIsFasterThanAWS(t *testing.T) {
	slow := func(t *testing.T, meanwhile func(e *efsHost, b *testHost)) (*efsHost, error) {
		t.Helper()
		e := newEFSHost(t)
		b := newHost(t, "", func(o *driver.Options) {
			*o = e.options
			o.Data = t.TempDir()
		})
		entered, release := make(chan struct{}), make(chan struct{})
		e.set(func() { e.creating = func() { close(entered); <-release } })
		result := make(chan error)
		go func() { result <- e.Create(t.Context(), "web", opts("accesspoint=create", "uid=0", "mode=0755")) }()
		select {
		case <-entered:
		case err := <-result:
			t.Fatalf("AWS was not asked: %v", err)
		}
		e.set(func() { e.creating = nil })
		meanwhile(e, b)
		close(release)
		return e, <-result
	}
	t.Run("to create the volume", func(t *testing.T) {
		e, err := slow(t, func(e *efsHost, b *testHost) {
			b.create("web")
			if err := os.Chmod(filepath.Join(e.export, "web"), 0o700); err != nil { // as Postgres does
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(filepath.Join(e.export, "web")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the directory in use was changed: %v, %v", info.Mode(), err)
		}
		if n := len(e.accessPoints()); n != 1 {
			t.Errorf("%d access points", n)
		}
	})
	t.Run("to create the volume, and then AWS fails", func(t *testing.T) {
		e, err := slow(t, func(e *efsHost, b *testHost) {
			b.create("web")
			e.set(func() { e.fails = errors.New("throttled") })
		})
		wantKind(t, err, driver.Failed, "throttled")
		if n := len(e.accessPoints()); n != 1 {
			t.Errorf("%d access points: the other host's volume has lost its own", n)
		}
		if !exists(t, filepath.Join(e.export, ".docker-volume-efs/volumes/web.json")) || !exists(t, filepath.Join(e.export, "web")) {
			t.Error("the other host's volume is gone")
		}
	})
	t.Run("to take the record aside for a moment", func(t *testing.T) {
		e, err := slow(t, func(e *efsHost, _ *testHost) {
			record, aside := filepath.Join(e.export, ".docker-volume-efs/volumes/web.json"), filepath.Join(e.export, ".docker-volume-efs/tmp/aside")
			if err := os.Rename(record, aside); err != nil {
				t.Fatal(err)
			}
			e.behind(func() {
				time.Sleep(50 * time.Millisecond)
				if err := os.Rename(aside, record); err != nil {
					t.Error(err)
				}
			})
		})
		if err != nil || !exists(t, filepath.Join(e.export, "web")) || len(e.accessPoints()) != 1 {
			t.Errorf("%v, access points %v", err, e.accessPoints())
		}
	})
	t.Run("to remove the volume", func(t *testing.T) {
		e, err := slow(t, func(_ *efsHost, b *testHost) { b.remove("web") })
		if err != nil || !exists(t, filepath.Join(e.export, ".docker-volume-efs/volumes/web.json")) || !exists(t, filepath.Join(e.export, "web")) || len(e.accessPoints()) != 1 {
			t.Errorf("it was not made anew: %v; access points %v", err, e.accessPoints())
		}
	})
	t.Run("to try to remove the volume", func(t *testing.T) {
		e, err := slow(t, func(_ *efsHost, b *testHost) {
			b.create("inner", "path=/web/inner")
			wantKind(t, b.Remove(t.Context(), "web"), driver.Conflict, "lies inside its directory")
		})
		if err != nil {
			t.Fatal(err)
		}
		e.mount("web", "1")
		if got := e.status("web")["access_point"]; got == nil {
			t.Error("it was mounted without its access point")
		}
		e.unmount("web", "1")
	})
	t.Run("to remove the volume each time", func(t *testing.T) {
		e := newEFSHost(t)
		b := newHost(t, "", func(o *driver.Options) {
			*o = e.options
			o.Data = t.TempDir()
		})
		e.set(func() { e.creating = func() { b.remove("web") } })
		err := e.Create(t.Context(), "web", opts("accesspoint=create"))
		wantKind(t, err, driver.Conflict, "removed it meanwhile")
		if exists(t, filepath.Join(e.export, ".docker-volume-efs/volumes/web.json")) || exists(t, filepath.Join(e.export, "web")) || len(e.accessPoints()) > 0 {
			t.Errorf("it is back, or half of it; access points %v", e.accessPoints())
		}
	})
}

// AWS may take longer than a file system may: that is no trouble of the file system.
func TestRemovalWaitsForAWSAndNotForTheFileSystem(t *testing.T) {
	e := newEFSHost(t)
	e.create("web", "accesspoint=create")
	e.create("other")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	e.set(func() { e.deleting = func(ctx context.Context) { <-ctx.Done() } })
	if err := e.Remove(ctx, "web"); err == nil {
		t.Fatal("it was removed")
	}
	if trouble := e.status("other")["trouble"]; trouble != nil {
		t.Errorf("another volume has the trouble %v", trouble)
	}
	// It would have an access point that is about to go.
	if _, err := e.Restore(t.Context(), "web", ""); err == nil || !strings.Contains(err.Error(), "docker volume rm web again first") {
		t.Errorf("restored meanwhile: %v", err)
	}
	e.set(func() { e.deleting = nil })
	e.remove("web")
	if _, err := e.Restore(t.Context(), "web", ""); err != nil {
		t.Error(err)
	}
}
