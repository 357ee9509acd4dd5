package tree_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func TestReadFile(t *testing.T) {
	dir, path := fresh(t, "a")
	const limit = 1 << 20
	for name, size := range map[string]int64{"empty": 0, "small": 3, "largest": limit, "larger": limit + 1, "huge": 1 << 40} {
		must(t, os.WriteFile(filepath.Join(path, name), nil, 0o600))
		must(t, os.Truncate(filepath.Join(path, name), size))
	}
	for name, size := range map[string]int{"empty": 0, "small": 3, "largest": limit} {
		data, err := dir.ReadFile(name)
		if err != nil || len(data) != size {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}

	must(t, syscall.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	must(t, os.Symlink("small", filepath.Join(path, "link")))
	must(t, os.Symlink("fifo", filepath.Join(path, "fifolink")))
	must(t, os.Symlink("a", filepath.Join(path, "dirlink")))
	must(t, os.WriteFile(filepath.Join(path, "a/file"), nil, 0o600))
	listener, err := net.Listen("unix", filepath.Join(path, "socket"))
	must(t, err)
	defer listener.Close()
	for _, row := range []struct {
		name string
		want error
	}{
		{"none", fs.ErrNotExist},
		{"larger", tree.ErrTooLarge},
		{"huge", tree.ErrTooLarge},
		{"link", tree.ErrSymlink},
		{"fifolink", tree.ErrSymlink},
		{"dirlink/file", tree.ErrSymlink},
		{"fifo", tree.ErrNotRegular},
		{"a", tree.ErrNotRegular},
		{"socket", tree.ErrNotRegular},
		{".", tree.ErrNotRegular},
		{"..", tree.ErrCrosses},
		{"a/../../x", tree.ErrCrosses},
	} {
		t.Run(row.name+" is refused, and nobody waits", func(t *testing.T) {
			ended := make(chan error, 1)
			go func() {
				_, err := dir.ReadFile(row.name)
				ended <- err
			}()
			select {
			case err := <-ended:
				checkError(t, err, row.want, filepath.Join(path, row.name))
			case <-time.After(patience):
				t.Fatal("it blocks")
			}
		})
	}
}

func TestWriteNew(t *testing.T) {
	t.Run("writes a file with its mode", func(t *testing.T) {
		dir, path := fresh(t)
		must(t, dir.WriteNew("file", []byte("rows"), 0o600))
		data, err := os.ReadFile(filepath.Join(path, "file"))
		if err != nil || string(data) != "rows" {
			t.Fatalf("%q, %v", data, err)
		}
		if info, err := os.Stat(filepath.Join(path, "file")); err != nil || info.Mode() != 0o600 {
			t.Fatalf("%v, %v", info.Mode(), err)
		}
	})
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, path string)
	}{
		{"a file", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("old"), 0o600)) }},
		{"a link to nothing", func(t *testing.T, path string) { must(t, os.Symlink("none", path)) }},
		{"a link to a file", func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".other", []byte("old"), 0o600))
			must(t, os.Symlink(filepath.Base(path)+".other", path))
		}},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) }},
		{"a named pipe", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }},
	} {
		t.Run("does not take the place of "+row.name, func(t *testing.T) {
			dir, path := fresh(t)
			row.plant(t, filepath.Join(path, "file"))
			before := listing(t, path)
			checkError(t, dir.WriteNew("file", []byte("new"), 0o600), fs.ErrExist, filepath.Join(path, "file"))
			if after := listing(t, path); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
			if old, err := os.ReadFile(filepath.Join(path, "file.other")); err == nil && string(old) != "old" {
				t.Errorf("the link's file became %q", old)
			}
		})
	}
	t.Run("does not climb or follow links", func(t *testing.T) {
		dir, path := fresh(t, "a/b", "outside")
		must(t, os.Symlink("../outside", filepath.Join(path, "a/link")))
		a, err := dir.Open("a")
		must(t, err)
		defer a.Close()
		checkError(t, a.WriteNew("../x", nil, 0o600), tree.ErrCrosses, "x")
		checkError(t, a.WriteNew("link/x", nil, 0o600), tree.ErrSymlink, "link")
		if got := listing(t, filepath.Join(path, "outside")); strings.Contains(got, "x\n") {
			t.Errorf("written outside:\n%s", got)
		}
		_ = dir
	})
	t.Run("leaves nothing when the file system is full", func(t *testing.T) {
		dir, path := fresh(t)
		limitFileSize(t, 1000)
		err := dir.WriteNew("file", make([]byte, 4000), 0o600)
		checkError(t, err, syscall.EFBIG, filepath.Join(path, "file"))
		if names, err := dir.Names(); err != nil || len(names) != 0 {
			t.Fatalf("left behind: %q, %v", names, err)
		}
	})
	t.Run("by many at once is done by one", func(t *testing.T) {
		dir, _ := fresh(t)
		var mu sync.Mutex
		var wins int
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				err := dir.WriteNew("file", []byte("x"), 0o600)
				if err != nil && !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					wins++
				}
			})
		}
		callers.Wait()
		if wins != 1 {
			t.Fatalf("%d wrote it", wins)
		}
	})
}

// limitFileSize makes writes beyond a size fail until the test ends, as they
// do on a full file system.
func limitFileSize(t *testing.T, size uint64) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: old.Max}))
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
}

func TestLink(t *testing.T) {
	dir, path := fresh(t, "to")
	to, err := dir.Open("to")
	must(t, err)
	defer to.Close()
	must(t, dir.WriteNew("one", []byte("1"), 0o600))
	must(t, dir.WriteNew("two", []byte("2"), 0o600))
	must(t, dir.Link("one", to, "name"))
	checkError(t, dir.Link("two", to, "name"), fs.ErrExist, filepath.Join(path, "to/name"))
	if data, err := to.ReadFile("name"); err != nil || string(data) != "1" {
		t.Fatalf("%q, %v", data, err)
	}
	checkError(t, dir.Link("none", to, "other"), fs.ErrNotExist, "other")

	t.Run("does not follow a link", func(t *testing.T) {
		must(t, os.Symlink("one", filepath.Join(path, "link")))
		must(t, dir.Link("link", to, "link"))
		if _, err := to.ReadFile("link"); !errors.Is(err, tree.ErrSymlink) {
			t.Fatalf("error %v, want %v", err, tree.ErrSymlink)
		}
	})
	t.Run("does not take the place of a link to nothing", func(t *testing.T) {
		must(t, os.Symlink("none", filepath.Join(path, "to/dangling")))
		checkError(t, dir.Link("one", to, "dangling"), fs.ErrExist, "to/dangling")
	})
}

func TestRename(t *testing.T) {
	dir, path := fresh(t, "to/empty", "to/full/x", "d/inner")
	to, err := dir.Open("to")
	must(t, err)
	defer to.Close()
	must(t, dir.WriteNew("one", []byte("1"), 0o600))
	must(t, to.WriteNew("file", []byte("old"), 0o600))
	must(t, dir.Rename("one", to, "file"))
	if data, err := to.ReadFile("file"); err != nil || string(data) != "1" {
		t.Fatalf("%q, %v", data, err)
	}
	checkError(t, dir.Rename("one", to, "file"), fs.ErrNotExist, filepath.Join(path, "one"))
	checkError(t, dir.Rename("d", to, "full"), syscall.ENOTEMPTY, filepath.Join(path, "d"))
	must(t, dir.Rename("d", to, "empty"))
	if info, err := os.Stat(filepath.Join(path, "to/empty/inner")); err != nil || !info.IsDir() {
		t.Fatalf("the directory was not moved: %v", err)
	}
	t.Run("moves a link itself", func(t *testing.T) {
		outside := t.TempDir()
		must(t, os.Symlink(outside, filepath.Join(path, "link")))
		must(t, dir.Rename("link", to, "link"))
		if got, err := os.Readlink(filepath.Join(path, "to/link")); err != nil || got != outside {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := os.Stat(outside); err != nil {
			t.Fatalf("the link's directory was moved: %v", err)
		}
	})
}

func TestUnlinkAndRemoveEmptyMayBeRepeated(t *testing.T) {
	dir, path := fresh(t, "empty", "full/x")
	must(t, dir.WriteNew("file", nil, 0o600))
	for range 2 {
		must(t, dir.Unlink("file"))
		must(t, dir.RemoveEmpty("empty"))
	}
	checkError(t, dir.RemoveEmpty("full"), syscall.ENOTEMPTY, filepath.Join(path, "full"))
	checkError(t, dir.Unlink("full"), syscall.EISDIR, filepath.Join(path, "full"))
	if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"full"}) {
		t.Fatalf("left: %q, %v", names, err)
	}
}

// What the kernel's NFS client does with a file that is open more than once cannot be had here; that this process
// never has it so can.
func TestAFileIsOpenForReadingOnceAtATime(t *testing.T) {
	root, path := fresh(t, "dir")
	path = filepath.Join(path, "dir")
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("1"), 0o600))
	must(t, os.WriteFile(filepath.Join(path, "other"), nil, 0o600))
	first, err := root.Open("dir")
	must(t, err)
	defer first.Close()
	dir, err := root.Open("dir")
	must(t, err)
	defer dir.Close()
	closed, err := first.ReadAlone("file")
	must(t, err)
	read := make(chan string, 1)
	go func() {
		data, err := dir.ReadFile("file")
		if err != nil {
			t.Error(err)
		}
		read <- string(data)
	}()
	_, err = dir.ReadFile("other")
	must(t, err)
	_, err = dir.FileStamp("file")
	must(t, err)
	select {
	case <-read:
		t.Fatal("it was read while another reader had it open")
	case <-time.After(50 * time.Millisecond):
	}
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("2"), 0o600))
	closed()
	if got := <-read; got != "2" {
		t.Errorf("it was %q when it was read, and was opened before the other reader had closed it", got)
	}
}
