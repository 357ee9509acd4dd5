//go:build integration

package integration

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBadDayDirectoryIsGone(t *testing.T) {
	beside(t)
	p := startBare(t, hosts(t), "host-a")
	for _, row := range []struct{ name, volume string }{
		{"while it is mounted and used", "used"},
		{"while it is mounted and idle", "idle"},
		{"while it is not mounted", "fresh"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := p.during(t)
			p.mustCreate(row.volume)
			held := ""
			if row.volume != "fresh" {
				p.holds(row.volume, "")
				held = "more"
			}
			if row.volume == "used" {
				p.mustMount(row.volume, "1")
			}
			p.rewrite(row.volume, "mv $f $f.away")
			_, err := p.mount(row.volume, "2")
			p.fails(err, "mount volume", "its directory /"+row.volume, "is gone", "restore it there")
			if _, err := os.Stat(p.onServer(row.volume)); err == nil {
				t.Error("Mount made a new, empty directory")
			}
			if v := p.mustGet(row.volume); v.Status.Mounts["2"] != 0 {
				t.Errorf("it counts %v", v.Status.Mounts)
			}
			p.rewrite(row.volume, "mv $f.away $f")
			p.holds(row.volume, held)
			p.mustUnmount(row.volume, "1")
			p.rewrite(row.volume, "rm -r $f")
			p.mustRemove(row.volume)
		})
	}
	p.works("used")
	p.leavesNothing()
	bareTidy(t, p.onServer(""))
}

func TestBadDayDirectoryIsReplaced(t *testing.T) {
	beside(t)
	p := startBare(t, hosts(t), "host-a")
	for _, row := range []struct {
		name, volume, change string
		keeps                bool // the old process its file
	}{
		{"moved away and made anew", "moved", "mv $f $f.old; mkdir $f; echo new >$f/file", true},
		{"restored from a copy", "copied", "cp -a $f $f.copy; mv $f $f.old; mv $f.copy $f; echo new >$f/file", true},
		{"deleted and made anew", "deleted", "rm -r $f; mkdir $f; echo new >$f/file", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := p.during(t)
			p.mustCreate(row.volume)
			mountpoint := p.mustMount(row.volume, "1")
			// A container's process that has a file open, and says in the end what it
			// reads in it.
			p.sh(fmt.Sprintf(`cd %[1]s && echo old >file && mkfifo %[2]s/go
				{ exec 8<file; read -r <%[2]s/go; echo "$(cat <&8)" >%[2]s/read; } </dev/null >/dev/null 2>&1 &`, mountpoint, p.dir))
			p.rewrite(row.volume, row.change)
			if got := p.sh("echo \"$(<" + p.mustMount(row.volume, "2") + "/file)\""); got != "new" {
				t.Errorf("the next container reads %q", got)
			}
			got := p.sh(fmt.Sprintf("cd %s; echo >go; until [ -s read ]; do sleep 0.1; done; echo \"$(<read)\"; rm go read", p.dir))
			if row.keeps && got != "old" {
				t.Errorf("the old process reads %q", got)
			}
			if got := p.mustGet(row.volume).Status.Mounts; len(got) != 2 {
				t.Errorf("it counts %v", got)
			}
			p.mustUnmount(row.volume, "1")
			p.mustUnmount(row.volume, "2")
		})
	}
	p.leavesNothing()
}

// TestBadDayRootIsReplaced replaces what the plugin itself holds open on the file
// system, as a restore from a backup does.
func TestBadDayRootIsReplaced(t *testing.T) {
	beside(t)
	l := hosts(t)
	for _, row := range []struct{ name, what string }{
		{"the export", ".."},
		{"the root in it", "."},
		{"the catalogue", bareCatalogue},
		{"the records", bareCatalogue + "/volumes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			export := bareRoot(t, l)
			if err := os.Mkdir(filepath.Join(l.Server.Dir("/export"), export), 0o755); err != nil {
				t.Fatal(err)
			}
			p := startBare(t, l, "host-a", "EFS_FILESYSTEM=nfs://10.77.0.11/export"+export, "EFS_ROOT=/root")
			p.mustCreate("used")
			p.mustMount("used", "1")
			p.holds("used", "")
			p.rewrite(row.what, "cp -a $f $f.copy; rm -r $f; mv $f.copy $f")

			p.holds("used", "more")
			p.mustCreate("web")
			p.mustUnmount("used", "1")
			p.unused()
			bareTidy(t, p.onServer(""))
		})
	}
}

func TestBadDayServerIsRestarted(t *testing.T) {
	alone(t)
	l := hosts(t)
	p := startBare(t, l, "host-a")
	p.mustCreate("web")
	mountpoint := p.mustMount("web", "1")
	const lines = 60
	p.sh(fmt.Sprintf(`{ for i in $(seq %d); do echo $i >>%s/log && sync %[2]s/log || { echo $i >%[3]s/failed; break; }; sleep 0.02; done; echo >%[3]s/done; } </dev/null >/dev/null 2>&1 &`,
		lines, mountpoint, p.dir))
	time.Sleep(500 * time.Millisecond)
	l.Server.Stop()
	time.Sleep(time.Second)
	if err := l.Server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := bareWait(t, time.Minute, func() error { _, err := p.mount("web", "2"); return err }); err != nil {
		t.Error(err)
	}
	t.Logf("Mount works %v after the restart", time.Since(start))
	got := p.sh(fmt.Sprintf("for i in $(seq 600); do [ -e %[1]s/done ] && break; sleep 0.1; done; cat %[1]s/failed 2>/dev/null; wc -l <%[2]s/log; tail -n 1 %[2]s/log", p.dir, mountpoint))
	if want := fmt.Sprintf("%d\n%d", lines, lines); got != want {
		t.Errorf("the writer says %q, want %q", got, want)
	}
	p.mustUnmount("web", "1")
	p.mustUnmount("web", "2")
	p.works("new")
	p.unused()
}

// TestBadDayDirectoryWithTheSameInode has a server on a disk whose file system
// uses the inode of a deleted directory again at once, as ext4 does.
func TestBadDayDirectoryWithTheSameInode(t *testing.T) {
	beside(t)
	l := hosts(t)
	b := l.Host("host-b")
	const config = `NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Allow_Set_Io_Flusher_Fail = true; }
NFSV4 { Minor_Versions = 1; Only_Numeric_Owners = true; Delegations = false; Grace_Period = 1; Lease_Lifetime = 5; RecoveryBackend = fs; RecoveryRoot = /bare/disk/recovery; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT { Export_Id = 1; Path = /bare/disk/export; Pseudo = /disk; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP; FSAL { Name = VFS; } }
`
	run(t, b, "mkdir -p /bare/disk/export /bare/disk/recovery /bare/nfs")
	if err := b.UploadBytes(t.Context(), []byte(config), "/bare/disk/ganesha.conf", 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, b, `ganesha.nfsd -f /bare/disk/ganesha.conf -L /bare/disk/log -p /bare/disk/pid
		for i in $(seq 200); do grep -q 'NFS SERVER INITIALIZED' /bare/disk/log && break; sleep 0.1; done`)
	t.Cleanup(func() {
		ctx, cancel := bareContext()
		defer cancel()
		if _, err := b.Run(ctx, "kill -9 $(cat /bare/disk/pid); rm -r /bare/disk"); err != nil {
			t.Error(err)
		}
	})
	name := "disk-" + rand.Text()[:4]
	p := startBare(t, l, "host-a", "EFS_FILESYSTEM=nfs://10.77.0.102/disk", "EFS_ROOT=/"+name)
	p.mustCreate("web")
	p.mustMount("web", "1")
	p.holds("web", "")
	got := run(t, b, fmt.Sprintf(`mount -t nfs4 -o vers=4.1 10.77.0.102:/disk /bare/nfs && cd /bare/nfs/%s || exit
		mkdir new; old=$(stat -c %%i web); rm -r web
		for i in $(seq 1000); do mkdir new/$i; [ $(stat -c %%i new/$i) = $old ] && { mv new/$i web; echo new >web/held; break; }; done
		rm -r new; [ -e web ] && echo same; cd /; umount /bare/nfs`, name))
	if got != "same" {
		t.Fatalf("no new directory got the old one's inode: %s", got)
	}
	p.holds("web", "new")
	p.mustUnmount("web", "1")
	p.unused()
}
