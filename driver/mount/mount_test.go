package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// bind opens a root of a fresh local directory with the given sub-directories.
func bind(t *testing.T, subdirs ...string) (root *mount.Root, source string) {
	t.Helper()
	source = t.TempDir()
	for _, dir := range subdirs {
		if err := os.MkdirAll(filepath.Join(source, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bindOf(t, source), source
}

func bindOf(t *testing.T, source string) *mount.Root {
	t.Helper()
	root := mount.Open(mount.Mount{Type: "bind", Source: source, Host: "test-host"})
	t.Cleanup(func() {
		root.Close()
		<-root.Finished()
	})
	<-root.Done()
	if err := root.Err(); err != nil {
		t.Fatal(err)
	}
	return root
}

func open(t *testing.T, root *mount.Root, path string) *tree.Dir {
	t.Helper()
	dir, err := root.Dir().Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func attach(t *testing.T, root *mount.Root, path string, flags mount.Flags) (target string) {
	t.Helper()
	target = t.TempDir()
	if err := root.Attach(open(t, root, path), target, flags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := mount.Detach(target); err != nil {
			t.Error(err)
		}
	})
	return target
}

func TestAttachedCloneShowsTheDirectory(t *testing.T) {
	root, source := bind(t, "a/b")
	target := attach(t, root, "a/b", mount.Flags{})
	if err := os.WriteFile(filepath.Join(target, "file"), []byte("rows"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(source, "a/b/file"))
	if err != nil || string(got) != "rows" {
		t.Fatalf("file beneath the source: %q, %v", got, err)
	}
}

func TestReadOnlyCloneRefusesWrites(t *testing.T) {
	root, _ := bind(t, "a")
	target := attach(t, root, "a", mount.Flags{ReadOnly: true})
	if err := os.WriteFile(filepath.Join(target, "file"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("write on a read-only clone: %v, want EROFS", err)
	}
}

func TestCloneIsNodev(t *testing.T) {
	// The tests' temporary directory is nodev already, and a clone takes that over.
	source := t.TempDir()
	if err := syscall.Mount("test", source, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := mount.Detach(source); err != nil {
			t.Error(err)
		}
	})
	if line := tableLine(t, source); strings.Contains(line, "nodev") {
		t.Fatalf("the source is nodev itself: %q", line)
	}
	target := attach(t, bindOf(t, source), "/", mount.Flags{})
	if line := tableLine(t, target); !strings.Contains(line, "nodev") {
		t.Fatalf("mount table line %q lacks nodev", line)
	}
}

func TestRootIsNotSeenByTheHost(t *testing.T) {
	_, source := bind(t)
	for line := range strings.Lines(mountTable(t)) {
		if strings.Contains(line, source) || strings.Contains(line, " /fs ") {
			t.Errorf("the host sees the root mount: %s", line)
		}
	}
}

func TestHostNameIsPrivate(t *testing.T) {
	bind(t)
	if name, _ := os.Hostname(); name == "test-host" {
		t.Fatal("the root's host name leaked into the process")
	}
}

func TestCloneSurvivesTheRoot(t *testing.T) {
	root, _ := bind(t, "a")
	target := attach(t, root, "a", mount.Flags{})
	root.Close()
	<-root.Finished()
	if err := os.WriteFile(filepath.Join(target, "file"), nil, 0o600); err != nil {
		t.Fatalf("write after the root was closed: %v", err)
	}
	if err := root.Attach(open2(t, target), t.TempDir(), mount.Flags{}); err == nil {
		t.Fatal("a closed root attached a directory")
	}
}

func open2(t *testing.T, path string) *tree.Dir {
	t.Helper()
	dir, err := tree.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestClosedRootFailsAtOnceAlsoWhileItsServerIsSilent(t *testing.T) {
	failed := make(chan error, 1)
	go func() {
		_, err := mount.Unmounting().Server()
		failed <- err
	}()
	select {
	case err := <-failed:
		if !errors.Is(err, mount.ErrClosed) {
			t.Errorf("error %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for the unmount")
	}
}

func TestDetachTakesOneLayerAtATimeAndIsRepeatable(t *testing.T) {
	root, _ := bind(t, "a", "b")
	target := attach(t, root, "a", mount.Flags{})
	if err := root.Attach(open(t, root, "b"), target, mount.Flags{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, true, false, false} {
		mounted, err := mount.Detach(target)
		if err != nil || mounted != want {
			t.Fatalf("detached %v, %v; want %v", mounted, err, want)
		}
	}
	if line := tableLine(t, target); line != "" {
		t.Fatalf("still mounted: %s", line)
	}
	if mounted, err := mount.Detach(filepath.Join(target, "never-was")); mounted || err != nil {
		t.Fatalf("detach of a path that is not there: %v, %v", mounted, err)
	}
}

func TestUnderListsDirectChildrenOnly(t *testing.T) {
	root, _ := bind(t, "a/b")
	base := t.TempDir()
	for _, dir := range []string{"one", "two words", "three/deeper"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"one", "two words", "three/deeper"} {
		target := filepath.Join(base, dir)
		if err := root.Attach(open(t, root, "a"), target, mount.Flags{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := mount.Detach(target); err != nil {
				t.Error(err)
			}
		})
	}
	got, err := mount.Under(base)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !got["one"] || !got["two words"] {
		t.Fatalf("mounted: %v", got)
	}
}

func TestFailureNamesSourceAndCause(t *testing.T) {
	root := mount.Open(mount.Mount{Type: "bind", Source: "/does/not/exist", Host: "h"})
	defer root.Close()
	<-root.Done()
	if err := root.Err(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("error: %v", err)
	}
	<-root.Finished()
}

func TestUnknownFileSystemSaysWhichModule(t *testing.T) {
	root := mount.Open(mount.Mount{Type: "nosuchfs", Source: "x:/", Host: "h"})
	defer root.Close()
	<-root.Done()
	if err := root.Err(); err == nil || !strings.Contains(err.Error(), "modprobe") {
		t.Fatalf("error: %v", err)
	}
	<-root.Finished()
}

func mountTable(t *testing.T) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(table)
}

func tableLine(t *testing.T, target string) string {
	t.Helper()
	for line := range strings.Lines(mountTable(t)) {
		if strings.Contains(line, " "+target+" ") {
			return line
		}
	}
	return ""
}
