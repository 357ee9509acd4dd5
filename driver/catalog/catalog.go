package catalog

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// DirName is the catalogue's directory under a file system's root.
const DirName = ".docker-volume-efs"

const (
	formatFile  = "catalog.json"
	volumesDir  = "volumes"
	tmpDir      = "tmp"
	trashDir    = "trash"
	deletingDir = "deleting"
	pathsDir    = "paths"
	hostsDir    = "hosts"
	leasesDir   = "leases"
	verdictsDir = "verdicts"
	suffix      = ".json"
	recordFile  = "record.json"
	dataDir     = "data"

	dirMode = 0o700
	// parentMode is that of a directory on the way to a volume's.
	parentMode = 0o755
	fileMode   = 0o600
)

// format is the content of formatFile.
type format struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// Catalog is an open catalogue. Make one with [Open].
type Catalog struct {
	root *tree.Dir // the file system's root; not the Catalog's own
	base *tree.Dir
	dirs map[string]*tree.Dir
	id   string
	name string // this host's, for names of temporary files
	// checked is the format file that was read last, and found to be ours.
	checked atomic.Pointer[tree.FileStamp]
}

// Open opens the catalogue under a root directory and makes it if there is
// none. The root stays the caller's and must stay open as long as the
// Catalog. The host's name is part of temporary names. It fails with [ErrNewer] if
// a later version made the catalogue.
func Open(root *tree.Dir, host string) (*Catalog, error) {
	base, _, err := root.Make(DirName, dirMode)
	if err != nil {
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	c := &Catalog{root: root, base: base, dirs: map[string]*tree.Dir{}, name: host}
	if err := c.open(); err != nil {
		c.Close()
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	return c, nil
}

func (c *Catalog) open() error {
	// The format first: a later one may have other directories.
	f, err := c.readFormat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{tmpDir, volumesDir, trashDir, deletingDir, pathsDir, hostsDir, leasesDir, verdictsDir} {
		dir, _, err := c.base.Make(name, dirMode)
		if err != nil {
			return err
		}
		c.dirs[name] = dir
	}
	if f.ID == "" {
		if err := c.writeFormat(); err != nil {
			return err
		}
		if f, err = c.readFormat(); err != nil {
			return err
		}
	}
	c.id = f.ID
	return nil
}

func (c *Catalog) writeFormat() error {
	data, err := json.Marshal(format{Version: Version, ID: rand.Text(), Created: time.Now().UTC()})
	if err != nil {
		return err
	}
	err = c.place(append(data, '\n'), func(tmp *tree.Dir, name string) error {
		return errors.Join(tmp.Link(name, c.base, formatFile), c.base.Sync())
	})
	if errors.Is(err, fs.ErrExist) {
		return nil // another host made it
	}
	return err
}

// CheckFormat looks at the catalogue's format again: a host with a newer plugin
// may have changed it since. If none has, that costs one question to the server.
func (c *Catalog) CheckFormat() error {
	if before := c.checked.Load(); before != nil {
		if now, err := c.base.FileStamp(formatFile); err == nil && now == *before {
			return nil
		}
	}
	_, err := c.readFormat()
	return err
}

func (c *Catalog) readFormat() (format, error) {
	data, stamp, err := c.base.ReadStamped(formatFile)
	if err != nil {
		return format{}, err
	}
	var f format
	err = json.Unmarshal(data, &f)
	// The version first: the rest of a later format may look different.
	if f.Version > Version {
		return format{}, newer(f.Version)
	}
	if err != nil || f.ID == "" {
		return format{}, fmt.Errorf("%s/%s is damaged: restore it, or move it away to have it made again", DirName, formatFile)
	}
	c.checked.Store(&stamp)
	return f, nil
}

// ID is the catalogue's own id: two addresses of one file system show the same.
func (c *Catalog) ID() string { return c.id }

// Close closes the catalogue.
func (c *Catalog) Close() {
	for _, dir := range c.dirs {
		_ = dir.Close()
	}
	_ = c.base.Close()
}

// Stamp asks the server when a record was last added, replaced or removed, and
// makes the kernel look names up again if one was.
func (c *Catalog) Stamp() (tree.Stamp, error) { return c.dirs[volumesDir].Refresh() }

// Lookup reads a record. It fails with [ErrNotFound], [ErrDamaged] or
// [ErrNewer], or with what the file system says.
func (c *Catalog) Lookup(name string) (Record, error) {
	found, err := c.LookupAgain(name, Found{})
	return found.Record, err
}

// Found is a record together with what tells whether it is still the same.
type Found struct {
	Record Record
	stamp  tree.FileStamp
}

// LookupAgain is Lookup of a record that may have been found before: if nobody
// has replaced it, which costs one question to the server, it is not read again.
func (c *Catalog) LookupAgain(name string, before Found) (Found, error) {
	if err := CheckName(name); err != nil {
		return Found{}, err
	}
	dir := c.dirs[volumesDir]
	if before.stamp != (tree.FileStamp{}) {
		if now, err := dir.FileStamp(name + suffix); err == nil && now == before.stamp {
			return before, nil
		}
	}
	if _, err := c.Stamp(); err != nil {
		return Found{}, err
	}
	data, stamp, err := dir.ReadStamped(name + suffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Found{}, ErrNotFound
	case isNoRecord(err):
		return Found{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return Found{}, err
	}
	record, err := parseRecord(name, data)
	if err != nil {
		return Found{}, err
	}
	return Found{Record: record, stamp: stamp}, nil
}

// Names lists the volumes that have a record, in no order.
func (c *Catalog) Names() ([]string, error) {
	if _, err := c.Stamp(); err != nil {
		return nil, err
	}
	files, err := c.dirs[volumesDir].Names()
	if err != nil {
		return nil, err
	}
	names := files[:0]
	for _, file := range files {
		if name, ok := strings.CutSuffix(file, suffix); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// Add writes a new record. If there is one of that name already, it is returned
// instead and won is false.
func (c *Catalog) Add(record Record) (current Record, won bool, err error) {
	record.Version = record.version()
	data, err := record.encode()
	if err != nil {
		return Record{}, false, err
	}
	if err := c.claim(record); err != nil {
		return Record{}, false, err
	}
	err = c.place(data, func(tmp *tree.Dir, name string) error {
		return tmp.Link(name, c.dirs[volumesDir], record.Name+suffix)
	})
	if errors.Is(err, fs.ErrExist) {
		current, err = c.Lookup(record.Name)
		return current, false, err
	}
	if err == nil {
		// Again: a removal of an older volume of that name may just have taken it.
		err = errors.Join(c.claim(record), c.dirs[volumesDir].Sync())
	}
	return record, err == nil, err
}

// Replace writes a record over another state of the same volume's. It fails with [ErrNotFound] if there is none
// of that name any more, and with [ErrChanged] if it is not the one that was there before: what a host that
// was cut off meant to write must not replace what others have done meanwhile.
func (c *Catalog) Replace(before, record Record) error {
	data, err := record.encode()
	if err != nil {
		return err
	}
	// A removal on another host may have taken the mark meanwhile.
	if err := c.claim(record); err != nil {
		return err
	}
	err = c.place(data, func(tmp *tree.Dir, name string) error {
		current, err := c.Lookup(record.Name)
		if err != nil {
			return err
		}
		if !current.isAt(before) {
			return ErrChanged
		}
		return tmp.Rename(name, c.dirs[volumesDir], record.Name+suffix)
	})
	if err != nil {
		return err
	}
	return c.dirs[volumesDir].Sync()
}

// DropRemoved removes the record of a volume whose data has left, unless
// another host has done that and the name means another volume by now. A Create that was
// under way elsewhere may have written "ready" over "removing": without a directory there is
// no volume.
func (c *Catalog) DropRemoved(record Record) error {
	return c.DropIf(record.Name, func(current Record) bool {
		if current.State == Removing {
			return current.IsRemoval(record.Trash)
		}
		return c.isHollow(current, record)
	})
}

// DropIf removes a record if it is still the one that is meant; one that is not there
// is no error. Between a look at a record and its removal another host may put a new
// one of that name there. So the record is first moved to where only this call finds
// it, and goes back if it is not the one.
func (c *Catalog) DropIf(name string, meant func(Record) bool) error {
	current, err := c.Lookup(name)
	if errors.Is(err, ErrNotFound) || err == nil && !meant(current) {
		return nil
	}
	if err != nil {
		return err
	}
	tmp, volumes := c.dirs[tmpDir], c.dirs[volumesDir]
	taken := c.name + "-" + rand.Text()
	if err := volumes.Rename(name+suffix, tmp, taken); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another host was faster
		}
		return err
	}
	return c.dropTaken(taken, name, meant)
}

// dropTaken is the second half of [Catalog.DropIf]: the record of that name is in tmp/.
func (c *Catalog) dropTaken(taken, name string, meant func(Record) bool) error {
	tmp, volumes := c.dirs[tmpDir], c.dirs[volumesDir]
	data, err := tmp.ReadFile(taken)
	if err != nil {
		return errors.Join(err, tmp.Rename(taken, volumes, name+suffix))
	}
	current, err := parseRecord(name, data)
	if err != nil || !meant(current) {
		return c.putBack(tmp, taken, name)
	}
	if err := errors.Join(tmp.Unlink(taken), volumes.Sync()); err != nil {
		return err
	}
	return c.unclaim(current)
}

// SetAside moves a damaged record out of the way, keeps its bytes in the catalogue, and returns the name they
// have there. It fails with [ErrChanged] if another host has put a record there that is not damaged.
func (c *Catalog) SetAside(name string) (string, error) {
	volumes, aside := c.dirs[volumesDir], name+suffix+".damaged-"+rand.Text()[:8]
	if err := volumes.Rename(name+suffix, volumes, aside); err != nil {
		return "", err
	}
	data, err := volumes.ReadFile(aside)
	if err == nil {
		_, err = parseRecord(name, data)
	}
	if isNoRecord(err) {
		return volumesDir + "/" + aside, nil
	}
	return "", errors.Join(cmp.Or(err, ErrChanged), c.putBack(volumes, aside, name))
}

// isNoRecord tells whether that is why what has a record's name can never be read as one.
func isNoRecord(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, tree.ErrSymlink) || errors.Is(err, tree.ErrTooLarge) || errors.Is(err, tree.ErrNotRegular)
}

// putBack gives a record that was taken by mistake its name again. By a link: if there is a new one of that name,
// that one is in use.
func (c *Catalog) putBack(from *tree.Dir, taken, name string) error {
	volumes := c.dirs[volumesDir]
	if err := from.Link(taken, volumes, name+suffix); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(from.Unlink(taken), volumes.Sync())
}

// place writes data under a temporary name and lets put move or link it to
// where it belongs; nothing stays behind in tmp/.
func (c *Catalog) place(data []byte, put func(tmp *tree.Dir, name string) error) error {
	tmp := c.dirs[tmpDir]
	name := c.name + "-" + rand.Text()
	if err := tmp.WriteTemporary(name, data, fileMode); err != nil {
		return err
	}
	if err := put(tmp, name); err != nil {
		// What cannot be unlinked now is swept later.
		_ = tmp.Unlink(name)
		return err
	}
	// After a rename there is nothing left to unlink.
	return tmp.Unlink(name)
}
