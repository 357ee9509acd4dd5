package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func TestIdentityIsStable(t *testing.T) {
	dir, path := fresh(t, "a", "b")
	a, err := dir.Open("a")
	must(t, err)
	defer a.Close()
	first, err := a.Identity()
	must(t, err)
	if first == identity(t, filepath.Join(path, "b")) {
		t.Error("two directories are the same")
	}
	must(t, os.Rename(filepath.Join(path, "a"), filepath.Join(path, "c")))
	must(t, os.Mkdir(filepath.Join(path, "a"), 0o755))
	second, err := a.Identity()
	must(t, err)
	if second != first || identity(t, filepath.Join(path, "c")) != first {
		t.Errorf("moved, it is %v, was %v", second, first)
	}
	if identity(t, filepath.Join(path, "a")) == first {
		t.Error("the one that took its place is the same")
	}
}

// A server may give the inode number of a deleted directory to a new one.
func TestIdentityHasTheFileSystemsOwnName(t *testing.T) {
	dir, path := fresh(t, "a")
	id, err := dir.Identity()
	must(t, err)
	if by := identity(t, path); id.Handle == "" || by != id {
		t.Errorf("%+v by descriptor, %+v by path", id, by)
	}
	if a := identity(t, filepath.Join(path, "a")); a.Handle == id.Handle {
		t.Error("two directories have one handle")
	}
}

func TestIdentityOfALinkIsItsOwn(t *testing.T) {
	_, path := fresh(t, "a")
	must(t, os.Symlink("a", filepath.Join(path, "link")))
	if identity(t, filepath.Join(path, "link")) == identity(t, filepath.Join(path, "a")) {
		t.Fatal("the link was followed")
	}
}

func TestIdentityErrorsNameThePath(t *testing.T) {
	_, path := fresh(t, "a")
	_, err := tree.IdentityOf(filepath.Join(path, "none"))
	checkError(t, err, fs.ErrNotExist, filepath.Join(path, "none"))
	closed, err := tree.Open(filepath.Join(path, "a"))
	must(t, err)
	must(t, closed.Close())
	for name, call := range map[string]func() error{
		"Identity": func() error { _, err := closed.Identity(); return err },
		"Refresh":  func() error { _, err := closed.Refresh(); return err },
		"Owner":    func() error { _, err := closed.Owner(); return err },
		"SetOwner": func() error { return closed.SetOwner(0, 0) },
		"SetMode":  func() error { return closed.SetMode(0o755) },
		"Names":    func() error { _, err := closed.Names(); return err },
		"Open":     func() error { _, err := closed.Open("x"); return err },
		"Make":     func() error { _, _, err := closed.Make("x", 0o755); return err },
		"Exists":   func() error { _, err := closed.Exists("x"); return err },
		"ReadFile": func() error { _, err := closed.ReadFile("x"); return err },
		"WriteNew": func() error { return closed.WriteNew("x", nil, 0o600) },
		"Unlink":   func() error { return closed.Unlink("x") },
	} {
		t.Run(name+" of a closed directory", func(t *testing.T) {
			checkError(t, call(), syscall.EBADF, filepath.Join(path, "a"))
		})
	}
}
