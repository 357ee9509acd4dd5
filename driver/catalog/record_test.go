package catalog_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func TestCheckName(t *testing.T) {
	for _, row := range []struct {
		what, name string
		ok         bool
	}{
		{"a word", "data", true},
		{"one letter", "a", true},
		{"a digit first", "0", true},
		{"all that is allowed", "Web-data_1.2", true},
		{"dots in a row", "a..b", true},
		{"200 letters", strings.Repeat("n", 200), true},
		{"201 letters", strings.Repeat("n", 201), false},
		{"nothing", "", false},
		{"a dot first", ".hidden", false},
		{"two dots", "..", false},
		{"a hyphen first", "-rf", false},
		{"an underscore first", "_x", false},
		{"a slash", "a/b", false},
		{"a climb", "a/../b", false},
		{"a backslash", `a\b`, false},
		{"a blank", "a b", false},
		{"a line end", "data\n", false},
		{"a line end within", "a\nb", false},
		{"NUL", "a\x00", false},
		{"letters of another script", "データ", false},
		{"what is not UTF-8", "a\xff", false},
		{"a colon", "a:b", false},
	} {
		err := catalog.CheckName(row.name)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", row.what, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%s: an error of %d bytes", row.what, len(err.Error()))
		}
	}
}

func TestCheckPath(t *testing.T) {
	for _, row := range []struct{ what, path, want string }{
		{"one directory", "/data", "/data"},
		{"several", "/apps/web/data", "/apps/web/data"},
		{"slashes at the end", "/apps//", "/apps"},
		{"slashes too many", "//apps///data", "/apps/data"},
		{"dots that mean nothing", "/./apps/./data", "/apps/data"},
		{"dots in names", "/a..b/...", "/a..b/..."},
		{"blanks and other scripts", "/データ/a b", "/データ/a b"},
		{"what only begins as the catalogue", "/" + catalog.DirName + "2", "/" + catalog.DirName + "2"},
		{"a component of 255 bytes", "/" + strings.Repeat("c", 255), "/" + strings.Repeat("c", 255)},
		{"a component of 256 bytes", "/" + strings.Repeat("c", 256), ""},
		{"4096 bytes", strings.Repeat("/c", 2048), ""},
		{"nothing", "", ""},
		{"the root", "/", ""},
		{"the root by another name", "//.", ""},
		{"a relative path", "apps", ""},
		{"a climb", "/apps/../etc", ""},
		{"a climb that comes to the same", "/apps/../apps", ""},
		{"a climb at the end", "/apps/..", ""},
		{"a line end", "/a\nb", ""},
		{"NUL", "/a\x00b", ""},
		{"what is not UTF-8", "/a\xff", ""},
		{"the catalogue", "/" + catalog.DirName, ""},
		{"the catalogue, not clean", "//./" + catalog.DirName + "/", ""},
		{"a path in the catalogue", "/" + catalog.DirName + "/trash/x", ""},
		{"a catalogue further down", "/a/" + catalog.DirName + "/b", ""},
	} {
		got, err := catalog.CheckPath(row.path)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v, want %q", row.what, got, err, row.want)
		}
	}
}

func TestModeText(t *testing.T) {
	for _, row := range []struct {
		text string
		want catalog.Mode
		back string
	}{
		{"0700", 0o700, "0700"},
		{"700", 0o700, "0700"},
		{"0", 0, "0000"},
		{"7", 7, "0007"},
		{"2770", 0o2770, "2770"},
		{"01777", 0o1777, "1777"},
		{"3777", 0o3777, "3777"},
	} {
		var mode catalog.Mode
		got, err := catalog.ParseMode(row.text)
		if err != nil || got != row.want || got.String() != row.back {
			t.Errorf("%s: %s, %v", row.text, got, err)
		}
		encoded, err := json.Marshal(got)
		must(t, err)
		if string(encoded) != `"`+row.back+`"` {
			t.Errorf("%s: encoded %s", row.text, encoded)
		}
		must(t, json.Unmarshal(encoded, &mode))
		if mode != row.want {
			t.Errorf("%s: decoded %s", row.text, mode)
		}
	}
	for _, wrong := range []string{"", "4000", "4755", "10000", "8", "0o700", "rwx", "-1", "+700", " 700", "07_00", "77777777777777"} {
		if got, err := catalog.ParseMode(wrong); err == nil {
			t.Errorf("%q: %s", wrong, got)
		}
	}
}

func TestNewTrashEntry(t *testing.T) {
	zone := time.FixedZone("elsewhere", 5*3600)
	now := time.Date(2026, 11, 21, 3, 4, 5, 999, zone)
	if got := catalog.NewTrashEntry("data", now, "ABCDEF"); got != "20261120T220405Z-ABCDEF-data" {
		t.Errorf("entry %s", got)
	}
	long := catalog.NewTrashEntry(strings.Repeat("n", 200), now, "ABCDEF")
	must(t, catalog.CheckName(long))
	if later := catalog.NewTrashEntry("a", now.Add(time.Second), "000000"); later <= long {
		t.Errorf("%s does not sort after %s", later, long)
	}
}

// FuzzParseRecord reads anything as a record: what is taken is harmless, and means the
// same when it is written and read again.
func FuzzParseRecord(f *testing.F) {
	mode := catalog.Mode(0o2770)
	for _, r := range []catalog.Record{
		record("data"),
		record("data", at("/../etc")),
		record("data", removing("entry", 1<<63)),
		record("data", removing("..", 1)),
		record("data", pointer),
		record("data", func(r *catalog.Record) { r.Options.Mode, r.Options.NFS = &mode, []string{"hard", "rsize=4096"} }),
		record("other"),
	} {
		data, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add("data", data)
	}
	for _, seed := range []string{"", "null", "[]", "{}", `{"version":2}`, `{"VERSION":1,"version":2}`, `{"version":1e0}`, "garbage\x00"} {
		f.Add("data", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		r, err := catalog.ParseRecord(name, data)
		if err != nil {
			return
		}
		if clean, err := catalog.CheckPath(r.Path); err != nil || clean != r.Path || r.Name != name || r.Version < catalog.Version || r.Version > catalog.VersionExclusive {
			t.Errorf("%+v: %q, %v", r, clean, err)
		}
		if r.Trash != "" {
			must(t, catalog.CheckName(r.Trash))
		}
		first, err := r.Encode()
		must(t, err)
		again, err := catalog.ParseRecord(name, first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%v\n%s\n%s", err, first, second)
		}
	})
}
