package catalog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// A lease is the name of an empty file, the only one in the directory leases/VOLUME@DIGEST. It
// changes by rename(2), which the server does as one step, or refuses: a name that another host
// has changed is not there any more. What it means is the caller's.

// LeaseKey is the directory of a volume's lease. Its digest is of what makes this volume another
// one than an earlier one of that name: a removal that comes late must not take the lease of the
// new one.
func (r Record) LeaseKey() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{r.Name, r.Path, r.CreatedBy, r.Created.UTC().Format(time.RFC3339Nano)}, "\x00")))
	return r.Name + keySeparator + hex.EncodeToString(sum[:6])
}

const keySeparator = "@" // which no volume's name has

// VolumeOf returns the name of the volume whose lease has that key.
func VolumeOf(key string) string {
	name, _, _ := strings.Cut(key, keySeparator)
	return name
}

func checkKey(key string) error {
	name, digest, ok := strings.Cut(key, keySeparator)
	if _, err := hex.DecodeString(digest); !ok || err != nil || len(digest) != 12 {
		return fmt.Errorf("%q is no lease's key", key)
	}
	return CheckName(name)
}

// Lease returns the name of a volume's lease. It is [ErrNotFound] if there is none, and [ErrDamagedLease] if there
// are several.
func (c *Catalog) Lease(key string) (string, error) {
	dir, err := c.leaseDir(key)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		return "", err
	}
	switch len(names) {
	case 0: // a removal is under way
		return "", ErrNotFound
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("%w: %s/%s/%s has %d names, not one", ErrDamagedLease, DirName, leasesDir, key, len(names))
}

func (c *Catalog) leaseDir(key string) (*tree.Dir, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	dir, err := c.dirs[leasesDir].Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if _, err := dir.Refresh(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// MakeLease makes a volume's lease; one that is there stays. The directory appears with the
// name in it: of two hosts one would else find it empty.
func (c *Catalog) MakeLease(key, name string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	tmp := c.dirs[tmpDir]
	unique := c.name + "-" + rand.Text()
	dir, _, err := tmp.Make(unique, dirMode)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = dir.WriteNew(name, nil, fileMode)
	if err == nil {
		err = tmp.Rename(unique, c.dirs[leasesDir], key)
	}
	if err == nil {
		return c.dirs[leasesDir].Sync()
	}
	cleaned := errors.Join(dir.Unlink(name), tmp.RemoveEmpty(unique))
	if errors.Is(err, fs.ErrExist) { // ENOTEMPTY as well
		return cleaned
	}
	return errors.Join(err, cleaned)
}

// TakeLease changes the name of a volume's lease, and tells whether it was what from says.
func (c *Catalog) TakeLease(key, from, to string) (bool, error) {
	dir, err := c.leaseDir(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	err = dir.Rename(from, dir, to)
	if err == nil {
		return true, dir.Sync()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// A server that was restarted may have done it, and refuse the repetition (RFC 8881 section
	// 2.10.6.1). The names are read anew: that of a change within the same tick of the server's
	// clock could be missing from what the kernel remembers.
	if err := dir.TouchSelf(); err != nil {
		return false, err
	}
	if _, err := dir.Refresh(); err != nil {
		return false, err
	}
	names, err := dir.Names()
	return slices.Contains(names, to), err
}

// DropLease removes a volume's lease; none is no error.
func (c *Catalog) DropLease(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	tmp := c.dirs[tmpDir]
	unique := c.name + "-" + rand.Text()
	if err := c.dirs[leasesDir].Rename(key, tmp, unique); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return errors.Join(discard(c.dirs[tmpDir], unique), c.dirs[leasesDir].Sync())
}
