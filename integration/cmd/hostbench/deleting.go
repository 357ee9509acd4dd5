package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// condemnedFiles keep a deletion busy for longer than a volume beside it is watched.
	condemnedFiles = 6000
	watchedBeside  = 20 * time.Second
)

// deleting measures writes that are synced in one volume: alone, while the plugin deletes another one of the same file
// system, and while rm -r deletes the same tree by hand.
func deleting(c config) (any, error) {
	if err := fresh(); err != nil {
		return nil, err
	}
	s, _, err := serve(c, "nfs://"+c.server+"/export", "EFS_ROOT=/deleting") // other measurements leave thousands of volumes
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	beside, err := mountpoint(s, volume{Name: "beside", ID: "bench"})
	if err != nil {
		return nil, err
	}
	all := map[string]*Times{}
	for _, state := range []struct {
		name  string
		begin func() (ended <-chan error, err error)
	}{
		{"nothing else", func() (<-chan error, error) { return nil, nil }},
		{"plugin", func() (<-chan error, error) { return nil, condemn(s) }},
		{"rm -r", func() (<-chan error, error) { return removeByHand(c) }},
	} {
		ended, err := state.begin()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", state.name, err)
		}
		all[state.name] = &Times{}
		if err := writeSynced(all[state.name], filepath.Join(beside, "data"), ended); err != nil {
			return nil, fmt.Errorf("%s: %w", state.name, err)
		}
	}
	return summaries(all), nil
}

// mountpoint makes a volume and mounts it.
func mountpoint(s *service, v volume) (string, error) {
	if err := s.call("Create", v); err != nil {
		return "", err
	}
	var mounted struct{ Mountpoint string }
	err := s.ask("Mount", volume{Name: v.Name, ID: v.ID}, &mounted)
	return mounted.Mountpoint, err
}

// condemn fills a volume and removes it, which has the plugin delete it in the background.
func condemn(s *service) error {
	v := volume{Name: "condemned", ID: "bench", Opts: map[string]string{"remove": "delete"}}
	dir, err := mountpoint(s, v)
	if err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return err
	}
	if err := s.call("Unmount", volume{Name: v.Name, ID: v.ID}); err != nil {
		return err
	}
	return s.call("Remove", volume{Name: v.Name})
}

// removeByHand deletes such a tree by a mount of its own.
func removeByHand(c config) (<-chan error, error) {
	dir, err := peerDir("rm")
	if err != nil {
		return nil, err
	}
	if err := mountCall(c.server, "/export", dir); err != nil {
		return nil, err
	}
	tree := filepath.Join(dir, "by-hand")
	if err := fill(tree); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		out, err := exec.Command("rm", "-r", tree).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("rm -r: %w: %s", err, out)
		}
		_ = unix.Unmount(dir, unix.MNT_DETACH) // the host ends anyway
		ended <- err
	}()
	return ended, nil
}

func fill(tree string) error {
	for i := range condemnedFiles {
		dir := filepath.Join(tree, fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeSynced writes pages of 4 KiB for some seconds, or until what goes on beside has ended, if that is sooner.
func writeSynced(times *Times, name string, ended <-chan error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	page := slices.Repeat([]byte("x"), 4096)
	for begin := time.Now(); time.Since(begin) < watchedBeside; {
		select {
		case err := <-ended:
			return err
		default:
		}
		err := timed(times, func() error {
			if _, err := file.WriteAt(page, 0); err != nil {
				return err
			}
			return file.Sync()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
