//go:build integration

package integration

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestBadDayFileSystemThatIsNotThere(t *testing.T) {
	beside(t)
	l := hosts(t)
	rows := []struct {
		name, filesystem string
		words            []string
		setting          string // one of the words when it is EFS_FILESYSTEM; empty: not tried
	}{
		{"a name that DNS does not know", "nfs://nosuch.example/export", []string{"nosuch.example", "check the file system's name"}, "check the file system's name"},
		{"an EFS name that DNS does not know", "fs-00000000000000000.efs.eu-west-1.amazonaws.com", []string{"fs-00000000000000000", "resolves only inside its VPC"}, ""},
		{"an EFS id without a region", "fs-0123456789abcdef0", []string{"set AWS_REGION", "DNS name"}, "set AWS_REGION"},
		{"an export that the server does not have", "nfs://10.77.0.11/nosuch", []string{"the server has no export /nosuch", "check the path"}, "no export /nosuch"},
		{"a directory that the export does not have", "nfs://10.77.0.11/export/no/such", []string{"the server has no export /export/no/such", "check the path"}, ""},
		{"a local directory that does not exist", "dir:/no/such", []string{"does not exist on this host", "make it first"}, "make it first"},
		{"a local directory that is a file", "dir:/etc/passwd", []string{"not a directory"}, ""},
		{"a server that is no NFS server", "nfs://10.77.0.102:22/export", []string{"does not speak NFSv4", "check address and port"}, ""},
		{"a port where nobody listens", "nfs://10.77.0.11:2050/export", []string{"connection refused", "check that the NFS server is running"}, ""},
		{"words that name no file system", "efs://export", []string{`option filesystem="efs://export"`, "allowed: fs-"}, `setting EFS_FILESYSTEM="efs://export"`},
	}
	p := startBare(t, l, "host-a")
	p.mustCreate("before")
	for _, row := range rows {
		t.Run("as option: "+row.name, func(t *testing.T) {
			p := p.during(t)
			p.fails(p.create("web", "filesystem="+row.filesystem), append(row.words, `create volume "web"`)...)
			if _, err := p.get("web"); err == nil {
				t.Error("the volume is known")
			}
		})
	}
	if got := bareRecords(t, p.onServer("")); len(got) != 1 {
		t.Errorf("records are %v, want that of volume before", got)
	}
	p.works("web")
	p.holds("before", "")

	for _, row := range rows {
		if row.setting == "" {
			continue
		}
		t.Run("as setting: "+row.name, func(t *testing.T) {
			p := startBare(t, l, "host-a", "EFS_FILESYSTEM="+row.filesystem)
			p.fails(p.create("web"), `create volume "web"`, row.setting)
			_, err := p.mount("web", "1")
			p.fails(err, row.setting)
			p.fails(p.remove("web"), row.setting)
			if names, err := p.list(); err != nil || len(names) > 0 {
				t.Errorf("List says %v, %v", names, err)
			}
			p.unused()
			p.set("EFS_FILESYSTEM=nfs://10.77.0.11/export")
			p.mustCreate("web")
			if _, err := os.Stat(p.onServer("web")); err != nil {
				t.Error(err)
			}
		})
	}
	p.leavesNothing()
	for _, f := range p.status().FileSystems {
		if f.Trouble != "" {
			t.Errorf("a file system that no volume is on stays in Status: %s: %s", f.FileSystem, f.Trouble)
		}
	}
}

func TestBadDayExportWithoutWritePermission(t *testing.T) {
	beside(t)
	p := startBare(t, hosts(t), "host-a", "EFS_FILESYSTEM=nfs://10.77.0.11/readonly")
	for range 2 {
		p.fails(p.create("web"), `create volume "web"`, "exported read-only", "export it with write permission")
	}
	p.unused()
	p.set("EFS_FILESYSTEM=nfs://10.77.0.11/export")
	p.works("web")
	p.leavesNothing()
}

func TestBadDayRootIsSquashed(t *testing.T) {
	beside(t)
	l := hosts(t)
	p := startBare(t, l, "host-a", "EFS_FILESYSTEM=nfs://10.77.0.11/squash")
	p.fails(p.create("web"), `create volume "web"`, "permission", "root squash")

	// A directory where everybody may write, also nobody, who root is there.
	name := "open-" + rand.Text()[:4]
	dir := filepath.Join(l.Server.Dir("/squash"), name)
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p.set("EFS_FILESYSTEM=nfs://10.77.0.11/squash/" + name)
	p.fails(p.create("web"), "the server squashes root", "no_root_squash", "-o uid=4294967294 -o gid=4294967294")
	if got := bareRecords(t, p.onServer("")); len(got) > 0 {
		t.Errorf("a volume that could not be created left its record: %v", got)
	}
	if _, err := os.Stat(p.onServer("web")); err == nil {
		t.Error("a volume that could not be created left its directory")
	}
	p.mustCreate("web", "uid=4294967294", "gid=4294967294")
	p.holds("web", "")
	p.holds("web", "more")
	p.mustRemove("web")
	bareTidy(t, p.onServer(""))
	p.leavesNothing()
}

func TestBadDayFileSystemIsFull(t *testing.T) {
	beside(t)
	l := hosts(t)
	p := startBare(t, l, "host-a", "EFS_FILESYSTEM=nfs://10.77.0.11/small")
	fill := filepath.Join(l.Server.Dir("/small"), "fill")
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(fill), os.RemoveAll(p.onServer(""))); err != nil {
			t.Error(err)
		}
	})
	p.mustCreate("before")
	p.holds("before", "")
	bareFill(t, fill)

	p.fails(p.create("web"), `create volume "web"`, "full", "free some space")
	if got := bareRecords(t, p.onServer("")); len(got) != 1 {
		t.Errorf("records are %v, want that of volume before", got)
	}
	mountpoint := p.mustMount("before", "1")
	if got := p.sh("cat " + mountpoint + "/held"); got != "more" {
		t.Errorf("a volume on a full file system holds %q", got)
	}
	p.mustUnmount("before", "1")
	// To remove a volume may be how somebody wants to make room.
	if err := p.remove("before"); err != nil {
		p.fails(err, `remove volume "before"`, "full", "free some space")
		p.mustGet("before")
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	p.works("web")
	p.mustRemove("before")
	bareTidy(t, p.onServer(""))
	p.leavesNothing()
}

// bareFill writes a file until its file system is full.
func bareFill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
