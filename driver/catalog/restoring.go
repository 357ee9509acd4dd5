package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

var (
	// ErrNoEntry reports that there is no such entry in the trash.
	ErrNoEntry = errors.New("no such entry in the trash")
	// ErrTaken reports that the name or the directory of a volume to be restored belongs to another.
	ErrTaken = errors.New("it is in use")
	// ErrUnfinished reports that the volume to be restored is still being removed.
	ErrUnfinished = errors.New("its removal is not finished")
)

// TrashEntry is a removed volume.
type TrashEntry struct {
	// ID names the entry, and sorts by time.
	ID string
	// Record is the volume as it was when its removal began.
	Record Record
	// Removed is when, by the clock of the host that removed it.
	Removed time.Time
	// Trouble is why it cannot be restored, if it cannot.
	Trouble error
}

// Trash lists the entries of the trash by their IDs, the latest first.
func (c *Catalog) Trash() ([]string, error) {
	if _, err := c.dirs[trashDir].Refresh(); err != nil {
		return nil, err
	}
	ids, err := c.dirs[trashDir].Names()
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return CheckName(id) != nil })
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	return ids, nil
}

// Trashed reads an entry of the trash. It fails with [ErrNoEntry] if there is none; what else keeps its
// record from being read is the entry's trouble.
func (c *Catalog) Trashed(id string) (TrashEntry, error) {
	record, err := c.trashed(id)
	if errors.Is(err, ErrNoEntry) {
		return TrashEntry{}, err
	}
	return TrashEntry{ID: id, Record: record, Removed: TrashedAt(id), Trouble: err}, nil
}

// TrashedAt is the time in an entry's ID, by the clock of the host that removed the volume; zero if there is none.
func TrashedAt(id string) time.Time {
	if len(id) < len(trashTime) {
		return time.Time{}
	}
	at, err := time.Parse(trashTime, id[:len(trashTime)])
	if err != nil {
		return time.Time{}
	}
	return at
}

// trashed reads the record of an entry.
func (c *Catalog) trashed(id string) (Record, error) {
	dir, err := c.openEntry(id)
	if err != nil {
		return Record{}, err
	}
	defer dir.Close()
	return recordIn(dir)
}

func recordIn(entry *tree.Dir) (Record, error) {
	data, err := entry.ReadFile(recordFile)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(data, &named); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := CheckName(named.Name); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return parseRecord(named.Name, data)
}

func (c *Catalog) openEntry(id string) (*tree.Dir, error) {
	if CheckName(id) != nil {
		return nil, ErrNoEntry
	}
	dir, err := c.dirs[trashDir].Open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoEntry
	}
	return dir, err
}

// Restore brings the data of a removed volume back to its path, under its own name or another
// one, whose default path it then gets. Nothing that is there is touched. The record says
// "removing" until [Catalog.Restored] is called with it, so that nobody mounts the volume half
// there, and a call that was cut off may be repeated, or taken back by a removal.
func (c *Catalog) Restore(id, as string) (Record, error) {
	entry, err := c.openEntry(id)
	if err != nil {
		return Record{}, err
	}
	defer entry.Close()
	record, err := recordIn(entry)
	if err != nil {
		return Record{}, err
	}
	if as != "" && as != record.Name {
		if err := CheckName(as); err != nil {
			return Record{}, err
		}
		record.Name, record.Path = as, "/"+as
	}
	return c.restore(entry, id, record)
}

// restore is [Catalog.Restore] of an entry that is open and read, wherever it is by now.
func (c *Catalog) restore(entry *tree.Dir, id string, record Record) (_ Record, err error) {
	if record.Directory, err = inodeOf(entry, dataDir); err != nil {
		return Record{}, err
	}
	record.State, record.Trash, record.AccessPointID, record.Made = Removing, id, "", true
	current, won, err := c.Add(record)
	if err != nil {
		return Record{}, err
	}
	if !won {
		if !current.IsRemoval(id) {
			return Record{}, fmt.Errorf("%w: there is a volume %q", ErrTaken, record.Name)
		}
		if current.AccessPointID != "" {
			return Record{}, fmt.Errorf("%w: run docker volume rm %s again first", ErrUnfinished, record.Name) // it is about to lose that
		}
		record = current // of a call that was cut off
	}
	// That of the removal which brought it here says nothing of one that comes now.
	if err := c.dirs[verdictsDir].Unlink(id); err != nil {
		return Record{}, err
	}
	if err := c.bringBack(entry, record); err != nil {
		if won {
			err = errors.Join(err, c.DropRemoved(record))
		}
		return Record{}, err
	}
	return record, nil
}

// inodeOf is the inode of a directory in dir, 0 if there is none.
func inodeOf(dir *tree.Dir, name string) (uint64, error) {
	child, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer child.Close()
	id, err := child.Identity()
	return id.Inode, err
}

// bringBack moves the data to the record's path, where nothing may be.
func (c *Catalog) bringBack(entry *tree.Dir, record Record) error {
	now, err := c.DirectoryOf(record)
	if err != nil {
		return err
	}
	switch {
	case now != 0 && now == record.Directory:
		return nil // by the call that was cut off
	case now != 0:
		return fmt.Errorf("%w: there is a directory %s", ErrTaken, record.Path)
	}
	neighbours, err := c.Neighbours(record)
	if err != nil {
		return err
	}
	for _, other := range neighbours {
		if other.State == Removing && record.Within(other) {
			return fmt.Errorf("%w: volume %q, which has the directory %s, is being removed", ErrTaken, other.Name, other.Path)
		}
	}
	parent, _, err := c.root.Make(path.Dir(record.Path), parentMode)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := c.refuseCondemned(record.Trash); err != nil {
		return err
	}
	// From here on it is no matter if another host condemns the entry: see takeData.
	err = entry.Rename(dataDir, parent, path.Base(record.Path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE) { // the data, or the entry with it
		if err := c.refuseCondemned(record.Trash); err != nil {
			return err
		}
		return fmt.Errorf("%w: its data is not there", ErrDamaged)
	}
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), entry.Sync())
}

// refuseCondemned fails if an entry has left the trash since it was opened.
func (c *Catalog) refuseCondemned(id string) error {
	there, err := c.dirs[trashDir].Exists(id)
	if err == nil && !there {
		err = fmt.Errorf("%w any more: it was emptied just now, and its data is being deleted", ErrNoEntry)
	}
	return err
}

// endRestoration writes the record that says "ready" over that of the restoration.
func (c *Catalog) endRestoration(record, ready Record) error {
	err := c.Replace(record, ready)
	if errors.Is(err, ErrNotFound) {
		err = c.addRestored(ready)
	}
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: it was removed again meanwhile", ErrTaken)
	}
	if !errors.Is(err, ErrChanged) {
		return err
	}
	current, err := c.Lookup(record.Name)
	if err == nil && current.State == Ready && current.Same(ready) {
		return nil // by another call that restored the same entry
	}
	return fmt.Errorf("%w: %w", ErrTaken, errors.Join(ErrChanged, err))
}

// addRestored writes the record of a volume that is brought back and has none: the last step of its removal, on a host that
// was slow, took the restoration's for its own. Or it was removed again: then it has no directory, and fails with
// [ErrNotFound].
func (c *Catalog) addRestored(ready Record) error {
	_, won, err := c.Add(ready)
	if err == nil && !won {
		err = ErrChanged
	}
	if err != nil {
		return err
	}
	return c.Confirm(ready)
}

// Restored ends a restoration: the volume is ready, and its entry leaves the trash.
func (c *Catalog) Restored(record Record) error {
	id := record.Trash
	now, err := c.DirectoryOf(record)
	if err != nil {
		return err
	}
	if now == 0 || now != record.Directory {
		return fmt.Errorf("%w: it was removed again meanwhile", ErrTaken)
	}
	ready := record
	ready.State, ready.Trash, ready.Directory = Ready, "", 0
	if err := c.endRestoration(record, ready); err != nil {
		return err
	}
	return c.dropEmptyEntry(id)
}
