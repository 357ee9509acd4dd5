package catalog

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Host is what one host tells the others: which volumes its containers use. Only that host
// writes it.
type Host struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	// Name is for people.
	Name    string             `json:"name"`
	Volumes map[string]HostUse `json:"volumes"`
}

// HostUse is one volume's use on a host.
type HostUse struct {
	// Since is by that host's clock.
	Since    time.Time `json:"since"`
	ReadOnly bool      `json:"readonly,omitempty"`
}

// FoundHost is an entry together with what tells whether it was renewed.
type FoundHost struct {
	Host
	stamp tree.FileStamp
}

// Same tells whether nothing has been heard of the host between two looks. By no clock: what
// is compared is what the server says.
func (h FoundHost) Same(before FoundHost) bool { return h.stamp == before.stamp }

// PutHost writes a host's entry.
func (c *Catalog) PutHost(h Host) error {
	h.Version = Version
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	err = c.place(append(data, '\n'), func(tmp *tree.Dir, name string) error {
		return tmp.Rename(name, c.dirs[hostsDir], h.ID+suffix)
	})
	if err != nil {
		return err
	}
	return c.dirs[hostsDir].Sync()
}

// RenewHost has the server record that the host is there, which is one small operation. It
// fails with [ErrNotFound] if another host has taken it for dead: the entry has to be written
// again.
func (c *Catalog) RenewHost(id string) error {
	err := c.dirs[hostsDir].Touch(id + suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	return err
}

// RemoveHost removes the entry of a host that uses nothing.
func (c *Catalog) RemoveHost(id string) error { return c.dirs[hostsDir].Unlink(id + suffix) }

// Hosts returns all entries by id, as they are now. Those that are as they were in an earlier
// look are not read again: each costs one question to the server. One that cannot be read is an
// error: nothing is known of what that host uses.
func (c *Catalog) Hosts(before map[string]FoundHost) (map[string]FoundHost, error) {
	dir := c.dirs[hostsDir]
	if _, err := dir.Refresh(); err != nil {
		return nil, err
	}
	names, err := dir.Names()
	if err != nil {
		return nil, err
	}
	all := make(map[string]FoundHost, len(names))
	for _, file := range names {
		id, ok := strings.CutSuffix(file, suffix)
		if !ok {
			continue
		}
		found, err := c.host(id, before[id])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("what host %s uses cannot be told: %w", id, err)
		}
		all[id] = found
	}
	return all, nil
}

// ForgetNames has the next look at the hosts and at the neighbours of a volume find the names that the server has: one
// that came in the same tick of the server's clock as an earlier look could be missing from what the kernel remembers of
// a directory.
func (c *Catalog) ForgetNames() error {
	return errors.Join(c.dirs[hostsDir].TouchSelf(), c.dirs[pathsDir].TouchSelf())
}

// Sign is what changes with each renewal; a clock has no part in it.
func (h FoundHost) Sign() string { return fmt.Sprint(h.stamp) }

// Host returns one host's entry as it is now, [ErrNotFound] if there is none. One that is as it
// was before costs one question to the server.
func (c *Catalog) Host(id string, before FoundHost) (FoundHost, error) {
	if _, err := c.dirs[hostsDir].Refresh(); err != nil {
		return FoundHost{}, err
	}
	found, err := c.host(id, before)
	if errors.Is(err, fs.ErrNotExist) {
		return FoundHost{}, ErrNotFound
	}
	return found, err
}

func (c *Catalog) host(id string, before FoundHost) (FoundHost, error) {
	dir := c.dirs[hostsDir]
	if before.ID != "" {
		if now, err := dir.FileStamp(id + suffix); err == nil && now == before.stamp {
			return before, nil
		}
	}
	data, stamp, err := dir.ReadStamped(id + suffix)
	if err != nil {
		return FoundHost{}, err
	}
	h, err := parseHost(id, data)
	return FoundHost{h, stamp}, err
}

func parseHost(id string, data []byte) (Host, error) {
	var version struct {
		Version int `json:"version"`
	}
	err := json.Unmarshal(data, &version)
	if err == nil && version.Version > Version {
		return Host{}, newer(version.Version)
	}
	var h Host
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err == nil && (h.ID != id || h.Version < 1) {
		err = errors.New("it is another host's")
	}
	if err == nil {
		err = CheckName(h.Name) // it is shown to people
	}
	if err != nil {
		return Host{}, fmt.Errorf("%w: %s/%s/%s: %w", ErrDamagedHost, DirName, hostsDir, id+suffix, err)
	}
	return h, nil
}

// DropHost removes the entry of a host that is taken for dead, if nothing has been heard of it
// since. Between a look and the removal the host may renew it, so it is first moved to where
// only this call finds it, and goes back in that case.
func (c *Catalog) DropHost(found FoundHost) error {
	tmp, hosts := c.dirs[tmpDir], c.dirs[hostsDir]
	taken := c.name + "-" + rand.Text()
	if err := hosts.Rename(found.ID+suffix, tmp, taken); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	now, err := tmp.FileStamp(taken)
	if err == nil && now.Inode == found.stamp.Inode && now.Modified == found.stamp.Modified {
		return errors.Join(tmp.Unlink(taken), hosts.Sync())
	}
	// By a link: if there is a new one, that one counts.
	if linkErr := tmp.Link(taken, hosts, found.ID+suffix); linkErr != nil && !errors.Is(linkErr, fs.ErrExist) {
		return errors.Join(err, linkErr)
	}
	return errors.Join(err, tmp.Unlink(taken))
}
