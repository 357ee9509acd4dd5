package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func always() error { return nil }

func TestRemoveTree(t *testing.T) {
	t.Run("removes everything beneath, and follows no link", func(t *testing.T) {
		dir, path := fresh(t, "gone/a/b/c", "gone/empty", "kept/inner")
		outside := t.TempDir()
		must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
		for link, to := range map[string]string{
			"gone/out": outside, "gone/a/up": "../../kept", "gone/a/b/out-again": outside, "gone/dangling": "none", "gone/a/file-out": outside + "/file",
		} {
			must(t, os.Symlink(to, filepath.Join(path, link)))
		}
		must(t, os.WriteFile(filepath.Join(path, "gone/a/b/file"), nil, 0o400))
		must(t, syscall.Mkfifo(filepath.Join(path, "gone/fifo"), 0o600))
		keptBefore, outsideBefore := listing(t, filepath.Join(path, "kept")), listing(t, outside)

		must(t, dir.RemoveTree("gone", always))

		if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"kept"}) {
			t.Errorf("left: %q, %v", names, err)
		}
		if listing(t, filepath.Join(path, "kept")) != keptBefore || listing(t, outside) != outsideBefore {
			t.Error("a link was followed")
		}
	})
	t.Run("removes a link itself", func(t *testing.T) {
		dir, path := fresh(t, "kept/inner")
		must(t, os.Symlink("kept", filepath.Join(path, "link")))
		must(t, dir.RemoveTree("link", always))
		if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"kept"}) {
			t.Fatalf("left: %q, %v", names, err)
		}
		if _, err := os.Stat(filepath.Join(path, "kept/inner")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("removes a single file", func(t *testing.T) {
		dir, _ := fresh(t)
		must(t, dir.WriteNew("file", nil, 0o600))
		must(t, dir.RemoveTree("file", always))
		if there, err := dir.Exists("file"); err != nil || there {
			t.Fatalf("still there: %v, %v", there, err)
		}
	})
	t.Run("of what is not there is no error", func(t *testing.T) {
		dir, _ := fresh(t)
		must(t, dir.RemoveTree("none", always))
	})
	t.Run("stops when it may do no more, and goes on later", func(t *testing.T) {
		dir, path := fresh(t, "gone/a/b/c", "gone/d/e/f", "gone/g")
		enough := errors.New("enough")
		for allowed, runs := 1, 0; ; allowed, runs = allowed+1, runs+1 {
			left := allowed
			err := dir.RemoveTree("gone", func() error {
				if left--; left < 0 {
					return enough
				}
				return nil
			})
			if err == nil {
				if runs < 3 {
					t.Errorf("it asked only %d times", runs)
				}
				break
			}
			if !errors.Is(err, enough) {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(path, "gone")); err != nil {
				t.Fatalf("stopped, and yet: %v", err)
			}
		}
	})
	t.Run("removes nothing when it may do nothing", func(t *testing.T) {
		dir, path := fresh(t, "kept")
		enough := errors.New("enough")
		if err := dir.RemoveTree("kept", func() error { return enough }); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(path, "kept")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("by two at once leaves nothing and fails for neither", func(t *testing.T) {
		dir, path := fresh(t)
		for _, p := range []string{"gone/a/b/c", "gone/d/e/f", "gone/g/h/i"} {
			must(t, os.MkdirAll(filepath.Join(path, p), 0o755))
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				if err := dir.RemoveTree("gone", always); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if names, err := dir.Names(); err != nil || len(names) != 0 {
			t.Fatalf("left: %q, %v", names, err)
		}
	})
}

func TestRemoveTreeHoldsFewDescriptorsHoweverDeepTheTree(t *testing.T) {
	dir, path := fresh(t, "top"+strings.Repeat("/d", 300))
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(fds)
	}
	before, most := open(), 0
	for names := []string{"top"}; len(names) > 0; {
		must(t, dir.RemoveTree(names[0], func() error {
			most = max(most, open()-before)
			return nil
		}))
		entries, err := os.ReadDir(path)
		must(t, err)
		names = nil
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
	}
	if most > 100 {
		t.Errorf("it held %d", most)
	}
}
