package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func usageOf(t *testing.T, path string, report func(tree.Usage) error) (tree.Usage, error) {
	t.Helper()
	dir, err := tree.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	return dir.Usage(report)
}

func TestUsage(t *testing.T) {
	root := t.TempDir()
	file := func(name string, size int) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	file("a/b/one", 100_000)
	file("two", 50_000)
	deep := "deep" + strings.Repeat("/d", 70)
	file(deep+"/three", 10_000)
	if err := errors.Join(
		os.Link(filepath.Join(root, "two"), filepath.Join(root, "a/again")),
		os.Symlink("/", filepath.Join(root, "everything")),
		os.Mkdir(filepath.Join(root, "mounted"), 0o755),
		syscall.Mount("tmpfs", filepath.Join(root, "mounted"), "tmpfs", 0, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(filepath.Join(root, "mounted"), syscall.MNT_DETACH) })
	file("mounted/elsewhere", 1<<20)
	reports := 0
	last := tree.Usage{}
	got, err := usageOf(t, root, func(u tree.Usage) error {
		if u.Bytes < last.Bytes || u.Files < last.Files {
			t.Errorf("it went from %+v to %+v", last, u)
		}
		last = u
		reports++
		return nil
	})
	if err != nil || got != last {
		t.Errorf("%+v, %v, the last report was %+v", got, err, last)
	}
	// Two files and a link that is one itself; what is too deep and what is elsewhere is left out.
	if got.Files != 3 || got.Skipped != 2 || got.Bytes < 150_000 || got.Bytes > 1<<20 || reports < 60 {
		t.Errorf("%+v after %d reports", got, reports)
	}
}

func TestUsageStops(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	reports := 0
	if _, err := usageOf(t, root, func(tree.Usage) error { reports++; return enough }); !errors.Is(err, enough) || reports != 1 {
		t.Errorf("%v after %d reports", err, reports)
	}
}
