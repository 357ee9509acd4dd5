package catalog_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func TestConfirm(t *testing.T) {
	for _, row := range []struct {
		name      string
		directory bool
		there     catalog.Record // what the record says by now
		dropped   bool
		fails     bool
	}{
		{"finds a volume whole", true, record("data"), false, false},
		{"drops the record of a volume without a directory", false, record("data"), true, true},
		{"leaves another volume's record", false, record("data", by("other")), false, true},
		{"leaves a removal to whoever has it in hands", false, record("data", removing(entry, 7)), false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			there := add(t, c, row.there)
			if row.directory {
				must(t, os.Mkdir(filepath.Join(root, "data"), 0o755))
			}
			if err := c.Confirm(record("data")); row.fails {
				wantError(t, err, catalog.ErrNotFound)
			} else {
				must(t, err)
			}
			if row.dropped {
				wantNone(t, c, "data")
			} else {
				wantRecord(t, c, there)
			}
		})
	}
}

func TestDropRemovedDropsWhatACreateHasWrittenOverIt(t *testing.T) {
	for _, row := range []struct {
		name      string
		directory bool
		there     catalog.Record
		dropped   bool
	}{
		{"if there is no directory any more", false, record("data"), true},
		{"not if there is one", true, record("data"), false},
		{"not if it is another volume's", false, record("data", by("other")), false},
		{"not if it is out of sight, in somebody else's access point", false, record("data", foreign), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			there := add(t, c, row.there)
			if row.directory {
				must(t, os.Mkdir(filepath.Join(root, "data"), 0o755))
			}
			must(t, c.DropRemoved(record("data", removing(entry, 7))))
			if row.dropped {
				wantNone(t, c, "data")
			} else {
				wantRecord(t, c, there)
			}
		})
	}
}

func foreign(r *catalog.Record) {
	r.Version, r.Made, r.Options.TLS, r.Options.AccessPoint = catalog.VersionProtected, false, true, "fsap-0123456789abcdef0"
}

func TestTakeBack(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(t *testing.T, c *catalog.Catalog, dir string)
		there  bool
	}{
		{"removes the directory", func(*testing.T, *catalog.Catalog, string) {}, false},
		{"is content without it", func(t *testing.T, _ *catalog.Catalog, dir string) { must(t, os.Remove(dir)) }, false},
		{"leaves one with another inode", func(t *testing.T, _ *catalog.Catalog, dir string) {
			must(t, os.Rename(dir, dir+"-old"))
			must(t, os.Mkdir(dir, 0o755))
		}, true},
		{"leaves one to a volume that has it by now", func(t *testing.T, c *catalog.Catalog, _ string) {
			add(t, c, record("data", by("other")))
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			dir := filepath.Join(root, "data")
			must(t, os.Mkdir(dir, 0o755))
			inode, err := c.DirectoryOf(record("data"))
			must(t, err)
			row.change(t, c, dir)
			must(t, c.TakeBack(record("data"), inode))
			if exists(t, dir) != row.there {
				t.Errorf("it is there: %v", !row.there)
			}
		})
	}
	t.Run("leaves one with something in it", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, filepath.Join(root, "data", "file"), "rows")
		inode, err := c.DirectoryOf(record("data"))
		must(t, err)
		if err := c.TakeBack(record("data"), inode); err == nil || read(t, filepath.Join(root, "data", "file")) != "rows" {
			t.Errorf("error %v", err)
		}
	})
}
