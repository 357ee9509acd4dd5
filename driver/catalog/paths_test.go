package catalog_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func pointer(r *catalog.Record) { r.FileSystem = "nfs://server/export" }

func TestNeighbours(t *testing.T) {
	for _, row := range []struct {
		name   string
		others []catalog.Record
		of     catalog.Record
		want   []string
	}{
		{"has none alone", nil, record("me", at("/a")), nil},
		{"is not its own", []catalog.Record{record("me", at("/a"))}, record("me", at("/a")), nil},
		{"is not its own at the default path", []catalog.Record{record("me")}, record("me"), nil},
		{"has one on the same directory", []catalog.Record{record("x", at("/a"))}, record("me", at("/a")), []string{"x"}},
		{"has one on its default directory", []catalog.Record{record("x", at("/me"))}, record("me"), []string{"x"}},
		{"has one at its default path on the same directory", []catalog.Record{record("x")}, record("me", at("/x")), []string{"x"}},
		{"has one inside", []catalog.Record{record("x", at("/a/b/c"))}, record("me", at("/a")), []string{"x"}},
		{"has one inside its default directory", []catalog.Record{record("x", at("/me/b"))}, record("me"), []string{"x"}},
		{"has one around it", []catalog.Record{record("x", at("/a"))}, record("me", at("/a/b/c")), []string{"x"}},
		{"has one at its default path around it", []catalog.Record{record("x")}, record("me", at("/x/b/c")), []string{"x"}},
		{"has all of them", []catalog.Record{
			record("a"), record("same", at("/a/b")), record("in", at("/a/b/c")), record("out", at("/a/c")), record("b"),
		}, record("me", at("/a/b")), []string{"a", "in", "same"}},
		{"has one once that is named as the directory around it", []catalog.Record{record("a", at("/a/b"))}, record("me", at("/a/b/c")), []string{"a"}},
		{"has none beside it", []catalog.Record{record("x", at("/a/c")), record("y", at("/b")), record("z")}, record("me", at("/a/b")), nil},
		{"has none whose name only begins as its own", []catalog.Record{record("x", at("/ab")), record("ab"), record("y", at("/a/bc"))}, record("me", at("/a/b")), nil},
		{"has none that is only named as the directory around it", []catalog.Record{record("a", at("/elsewhere"))}, record("me", at("/a/b")), nil},
		{"has one being removed", []catalog.Record{record("x", at("/a"), removing("entry", 1))}, record("me", at("/a")), []string{"x"}},
		{"has none on another file system", []catalog.Record{record("x", at("/a"), pointer)}, record("me", at("/a")), nil},
		{"has none on another file system at its default path", []catalog.Record{record("x", pointer)}, record("me", at("/x/y")), nil},
	} {
		t.Run("a volume "+row.name, func(t *testing.T) {
			root := t.TempDir()
			here, elsewhere := open(t, root), open(t, root)
			for _, other := range row.others {
				add(t, elsewhere, other)
			}
			for range 2 { // also with a record of its own
				neighbours, err := here.Neighbours(row.of)
				must(t, err)
				var got []string
				for _, other := range neighbours {
					got = append(got, other.Name)
				}
				slices.Sort(got)
				if !slices.Equal(got, row.want) {
					t.Errorf("neighbours %v, want %v", got, row.want)
				}
				_, _, err = here.Add(row.of)
				must(t, err)
			}
		})
	}
}

func TestNeighboursThatCannotBeRead(t *testing.T) {
	for _, row := range []struct {
		name, neighbour string
		plant           func(t *testing.T, root string, c *catalog.Catalog)
		want            error
	}{
		{"a damaged one with a path of its own", "x", func(t *testing.T, root string, c *catalog.Catalog) {
			add(t, c, record("x", at("/a")))
			write(t, inside(root, "volumes", "x.json"), "x")
		}, catalog.ErrDamaged},
		{"a newer one with a path of its own", "x", func(t *testing.T, root string, c *catalog.Catalog) {
			add(t, c, record("x", at("/a/b/c")))
			write(t, inside(root, "volumes", "x.json"), `{"version":4}`)
		}, catalog.ErrNewer},
		{"a damaged one named as the directory around", "a", func(t *testing.T, root string, _ *catalog.Catalog) {
			write(t, inside(root, "volumes", "a.json"), "x")
		}, catalog.ErrDamaged},
	} {
		t.Run(row.name+" is an error", func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			row.plant(t, root, c)
			neighbours, err := c.Neighbours(record("me", at("/a/b")))
			wantError(t, err, row.want)
			if !strings.Contains(err.Error(), `"`+row.neighbour+`"`) || neighbours != nil {
				t.Errorf("neighbours %v, error %v", neighbours, err)
			}
		})
	}
	t.Run("a damaged one that is elsewhere is none", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("x", at("/far/away")))
		write(t, inside(root, "volumes", "x.json"), "x")
		neighbours, err := c.Neighbours(record("me", at("/a/b")))
		if err != nil || neighbours != nil {
			t.Errorf("neighbours %v, error %v", neighbours, err)
		}
	})
	t.Run("its own damaged record is none", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("me", at("/a/b")))
		write(t, inside(root, "volumes", "me.json"), "x")
		neighbours, err := c.Neighbours(record("me", at("/a/b")))
		if err != nil || neighbours != nil {
			t.Errorf("neighbours %v, error %v", neighbours, err)
		}
	})
}

func TestClaims(t *testing.T) {
	t.Run("mark volumes with a path of their own on this file system", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("default"))
		own, under := add(t, c, record("own", at("/elsewhere"))), add(t, c, record("under", at("/default/under")))
		add(t, c, record("far", at("/elsewhere"), pointer))
		wantNames(t, inside(root, "paths"), catalog.Mark(own), catalog.Mark(under))
	})
	t.Run("of dead names and of no names are ignored", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		for _, name := range []string{"dead", ".hidden", "with blank", "dead.json", "@", "@" + catalog.Way("/a"), "dead@" + catalog.Way("/a"), "with blank@" + catalog.Way("/a"), "dead@@"} {
			write(t, inside(root, "paths", name), "")
		}
		must(t, os.Mkdir(inside(root, "paths", "dir"), 0o700))
		neighbours, err := c.Neighbours(record("me", at("/a")))
		if err != nil || neighbours != nil {
			t.Errorf("neighbours %v, error %v", neighbours, err)
		}
	})
	t.Run("left by a crash do not keep the name from being used", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "paths", catalog.Mark(record("data", at("/elsewhere")))), "")
		add(t, c, record("data", at("/elsewhere")))
		neighbours, err := c.Neighbours(record("me", at("/elsewhere/in")))
		if err != nil || len(neighbours) != 1 {
			t.Errorf("neighbours %v, error %v", neighbours, err)
		}
		must(t, c.Drop("data"))
		wantNames(t, inside(root, "paths"))
	})
	t.Run("are there before the record", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		must(t, os.Remove(inside(root, "paths")))
		if _, won, err := c.Add(record("data", at("/elsewhere"))); err == nil || won {
			t.Errorf("added without a claim: %v, %v", won, err)
		}
		wantNone(t, c, "data")
	})
}

func TestWithin(t *testing.T) {
	for _, row := range []struct {
		path, other string
		want        bool
	}{
		{"/a", "/a", true},
		{"/a/b", "/a", true},
		{"/a/b/c", "/a", true},
		{"/a", "/a/b", false},
		{"/ab", "/a", false},
		{"/a b", "/a", false},
		{"/a", "/b", false},
	} {
		if got := record("x", at(row.path)).Within(record("y", at(row.other))); got != row.want {
			t.Errorf("%s within %s: %v", row.path, row.other, got)
		}
	}
}

func TestMarks(t *testing.T) {
	long := strings.Repeat("x", 200)
	deep := strings.Repeat("/d", 20)
	for _, row := range []struct {
		name, one, other string
		meet             bool
	}{
		{"the same directory", "/a/b", "/a/b", true},
		{"one inside", "/a/b", "/a/b/c/d", true},
		{"one beside", "/a/b", "/a/c", false},
		{"one whose name only begins as the other's", "/a/b", "/a/bc", false},
		{"one inside, deeper than a mark tells", deep, deep + "/e", true},
		{"one beside, deeper than a mark tells, for which the record is read", deep + "/e", deep + "/f", true},
		{"one beside another that is deep", deep, "/e", false},
	} {
		t.Run("of "+row.name, func(t *testing.T) {
			for range 2 {
				if got := catalog.MayMeet(catalog.Way(row.one), catalog.Way(row.other)); got != row.meet {
					t.Errorf("%s and %s may meet: %v", row.one, row.other, got)
				}
				row.one, row.other = row.other, row.one
			}
		})
	}
	t.Run("of the longest name and path are names of files", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record(long, at(deep)))
		wantNames(t, inside(root, "paths"), catalog.Mark(record(long, at(deep))))
	})
}
