package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/integration/image"
)

// Suites are the Debian releases that a host can be made of, the main one first.
// trixie is Linux 6.12 with Engine 26.1, bookworm Linux 6.1 with Engine 20.10.
func Suites() []string { return []string{"trixie", "bookworm"} }

// keepUnused is how long an image of other scripts stays in the cache after its
// last use: long enough to change branches, short enough not to fill a disk.
const keepUnused = 7 * 24 * time.Hour

// Prepare installs missing packages of the machine and builds the suite's image
// into the cache, if it is not there already. It needs root and the machine's
// package sources; call it before [Isolate], or as its argument. Progress goes to
// log.
func Prepare(ctx context.Context, suite string, log io.Writer) error {
	cache, err := openCache(suite)
	if err != nil {
		return err
	}
	if err := installPackages(ctx, log); err != nil {
		return err
	}
	shared, err := cache.lock(ctx, unix.LOCK_SH, log)
	if err != nil {
		return err
	}
	defer shared.Close()
	if exists(cache.image) {
		return nil
	}
	shared.Close()
	exclusive, err := cache.lock(ctx, unix.LOCK_EX, log)
	if err != nil {
		return err
	}
	defer exclusive.Close()
	if exists(cache.image) {
		return nil
	}
	return cache.build(ctx, log)
}

// installPackages runs packages.sh without a file of it on the machine.
func installPackages(ctx context.Context, log io.Writer) error {
	content, err := image.Files.ReadFile("packages.sh")
	if err != nil {
		return err
	}
	if err := script(ctx, log, bytes.NewReader(content), "sh", "-s"); err != nil {
		return fmt.Errorf("install the packages that the test hosts need: %w", err)
	}
	return nil
}

// cache is the place of one suite's image.
type cache struct {
	suite string
	root  string // of all suites
	image string // directory of the image, named after the scripts' content
}

// cacheRoot is the directory of all suites' images; it is made if it is missing.
func cacheRoot() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory, set XDG_CACHE_HOME: %w", err)
	}
	root := filepath.Join(base, "docker-volume-efs")
	return root, os.MkdirAll(root, 0o700)
}

func openCache(suite string) (*cache, error) {
	if !slices.Contains(Suites(), suite) {
		return nil, fmt.Errorf("no suite %q: use one of %s", suite, strings.Join(Suites(), ", "))
	}
	root, err := cacheRoot()
	if err != nil {
		return nil, err
	}
	c := &cache{suite: suite, root: root}
	digest, err := digestScripts(func(path string) bool { return path != "packages.sh" && path != "peers.sh" })
	if err != nil {
		return nil, err
	}
	c.image = filepath.Join(c.root, suite+"-"+digest)
	return c, nil
}

// digestScripts names the content of some of the scripts.
func digestScripts(of func(path string) bool) (string, error) {
	digest := sha256.New()
	err := fs.WalkDir(image.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !of(path) {
			return err
		}
		content, err := image.Files.ReadFile(path)
		fmt.Fprintf(digest, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the image scripts: %w", err)
	}
	return hex.EncodeToString(digest.Sum(nil))[:12], nil
}

// lock guards the image: shared for who runs from it, exclusive for who builds it.
func (c *cache) lock(ctx context.Context, how int, log io.Writer) (*os.File, error) {
	return lockFile(ctx, c.image+".lock", how, func() {
		fmt.Fprintf(log, "%s image: another run builds or uses it, waiting\n", c.suite)
	})
}

// build makes the image.
func (c *cache) build(ctx context.Context, log io.Writer) error {
	start := time.Now()
	fmt.Fprintf(log, "%s image: building into %s (once; a few minutes)\n", c.suite, c.image)
	if err := runScript(ctx, log, "build.sh", c.suite, c.image); err != nil {
		return fmt.Errorf("build the %s image: %w", c.suite, err)
	}
	fmt.Fprintf(log, "%s image: done in %.0f s\n", c.suite, time.Since(start).Seconds())
	return c.prune()
}

// runScript has a script of the image build a directory under a temporary name, and
// renames that.
func runScript(ctx context.Context, log io.Writer, name, suite, dir string) (err error) {
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	scripts, result := filepath.Join(partial, "scripts"), filepath.Join(partial, "image")
	if err := errors.Join(os.Mkdir(partial, 0o700), os.CopyFS(scripts, image.Files)); err != nil {
		return fmt.Errorf("unpack the image scripts: %w", err)
	}
	// The build gets namespaces of its own and dies with us: cut short, it leaves
	// no mount and no process.
	err = script(ctx, log, nil, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", filepath.Join(scripts, name), suite, result)
	if err != nil {
		return err
	}
	return os.Rename(result, dir)
}

// prune removes the suite's images of other scripts that nobody uses any more.
func (c *cache) prune() error {
	locks, err := filepath.Glob(filepath.Join(c.root, c.suite+"-*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		old := strings.TrimSuffix(path, ".lock")
		info, err := os.Stat(path)
		if err != nil || old == c.image || time.Since(info.ModTime()) < keepUnused {
			continue
		}
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		lock, err := lockFile(expired, path, unix.LOCK_EX, nil)
		if err != nil {
			continue // in use
		}
		err = errors.Join(os.RemoveAll(old), os.RemoveAll(old+".partial"), os.Remove(path))
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove an image that is no longer used: %w", err)
		}
	}
	return nil
}

// script runs a long step with its output in log, until ctx ends.
func script(ctx context.Context, log io.Writer, stdin io.Reader, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = stdin
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	err := startBound(cmd, cmd.Run)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // not what the killed step looked like
	}
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
