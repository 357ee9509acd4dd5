package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// No test may give a call that changes anything a name or a link that leads out of
// the test's own directories: a defect would then be done to the machine.
func TestMain(m *testing.M) { mounttest.Main(m) }

// patience is far beyond what any call here takes; one that blocks is ended by it.
const patience = 20 * time.Second

func open(t *testing.T, path string) *tree.Dir {
	t.Helper()
	dir, err := tree.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}

// fresh opens a new directory with the given ones in it.
func fresh(t *testing.T, dirs ...string) (dir *tree.Dir, path string) {
	t.Helper()
	path = t.TempDir()
	for _, sub := range dirs {
		must(t, os.MkdirAll(filepath.Join(path, sub), 0o755))
	}
	return open(t, path), path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkError fails unless err is want and names the path.
func checkError(t *testing.T, err, want error, path string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("error %q does not name %s", err, path)
	}
}

// identity is what a path on the host is.
func identity(t *testing.T, path string) tree.Identity {
	t.Helper()
	id, err := tree.IdentityOf(path)
	must(t, err)
	return id
}

// listing shows all that lies beneath a path.
func listing(t *testing.T, path string) string {
	t.Helper()
	var list strings.Builder
	must(t, filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		_, err = list.WriteString(info.Mode().String() + " " + relative + "\n")
		return err
	}))
	return list.String()
}
