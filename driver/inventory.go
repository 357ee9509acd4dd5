package driver

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Volume is what a list for people shows of one.
type Volume struct {
	Name       string    `json:"volume"`
	FileSystem string    `json:"filesystem"`
	Path       string    `json:"path"`
	Created    time.Time `json:"created,omitzero"`
	// Remove is what docker volume rm does with the data. Of an adopted directory, which was
	// there before the volume, it stays in any case.
	Remove  string `json:"remove"`
	Adopted bool   `json:"adopted,omitempty"`
	// UsedBy are the hosts whose containers use it, the others as they were when last looked at.
	UsedBy  []string `json:"used_by"`
	Trouble []string `json:"trouble,omitempty"`
}

// Volumes lists all volumes that this host knows of, in the order of their names. Like List it
// waits only a moment for the home file system.
func (d *Driver) Volumes(ctx context.Context) []Volume {
	d.refreshSoon(ctx, listTimeout)
	all := []Volume{}
	for name, k := range d.known.All() {
		v := Volume{
			Name: name, FileSystem: k.FileSystem, Path: k.Record.Path, Created: k.Record.Created, Remove: k.Record.Options.Remove,
			Adopted: k.Record.Path != "" && !k.Record.Made, UsedBy: []string{}, Trouble: d.troublesOf(name, k),
		}
		if u, _ := d.uses.current(name); u.Boot == d.host.boot && u.total() > 0 {
			v.UsedBy = append(v.UsedBy, d.host.name)
		}
		v.UsedBy = append(v.UsedBy, d.usedElsewhere(name, k)...)
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b Volume) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Size walks through a volume and adds up what it takes. progress hears the sum so far,
// before Size returns. It takes as long as the tree is large, and ends with the context; what the kernel is still asking a dead server is left behind.
func (d *Driver) Size(ctx context.Context, name string, progress func(tree.Usage)) (tree.Usage, error) {
	var sum tree.Usage
	err := d.whereItIs(ctx, name, func(f *fileSystem) (err error) {
		sum, err = f.size(ctx, name, progress)
		return err
	})
	return sum, fail("size", name, err)
}

func (f *fileSystem) size(ctx context.Context, name string, progress func(tree.Usage)) (tree.Usage, error) {
	record, err := f.record(ctx, name)
	if err != nil {
		return tree.Usage{}, err
	}
	dir, s, err := f.transportOf(record).openDir(ctx, pathOn(record))
	if err != nil {
		return tree.Usage{}, err
	}
	type result struct {
		sum tree.Usage
		err error
	}
	reports, ended := make(chan tree.Usage), make(chan result, 1)
	f.d.stragglers.Go(func() {
		defer s.release()
		defer dir.Close()
		sum, err := dir.Usage(func(u tree.Usage) error {
			select {
			case reports <- u:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-f.d.life.Done():
				return errClosing
			}
		})
		ended <- result{sum, err}
	})
	for {
		select {
		case u := <-reports:
			progress(u)
		case r := <-ended:
			return r.sum, r.err
		case <-ctx.Done():
			return tree.Usage{}, ctx.Err()
		case <-f.d.life.Done():
			return tree.Usage{}, errClosing
		}
	}
}
