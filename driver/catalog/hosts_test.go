package catalog_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func someHost(id string, volumes ...string) catalog.Host {
	h := catalog.Host{ID: id, Name: "web-1", Volumes: map[string]catalog.HostUse{}}
	for _, v := range volumes {
		h.Volumes[v] = catalog.HostUse{Since: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	}
	return h
}

func look(t *testing.T, c *catalog.Catalog, before map[string]catalog.FoundHost) map[string]catalog.FoundHost {
	t.Helper()
	all, err := c.Hosts(before)
	must(t, err)
	return all
}

func TestHosts(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	must(t, a.PutHost(someHost("a", "data", "web")))
	must(t, b.PutHost(someHost("b", "data")))
	first := look(t, b, nil)
	if len(first) != 2 || len(first["a"].Volumes) != 2 || first["b"].Name != "web-1" {
		t.Fatalf("entries %+v", first)
	}
	second := look(t, b, first)
	if !second["a"].Same(first["a"]) || !second["b"].Same(first["b"]) {
		t.Error("what nobody has renewed is not the same")
	}
	time.Sleep(20 * time.Millisecond) // file systems record times in steps
	must(t, a.RenewHost("a"))
	third := look(t, b, second)
	if third["a"].Same(second["a"]) || !third["b"].Same(second["b"]) || len(third["a"].Volumes) != 2 {
		t.Errorf("after a renewal %+v", third)
	}
	must(t, a.PutHost(someHost("a", "web")))
	if fourth := look(t, b, third); fourth["a"].Same(third["a"]) || len(fourth["a"].Volumes) != 1 {
		t.Errorf("after a change %+v", fourth["a"])
	}
	must(t, a.RemoveHost("a"))
	must(t, a.RemoveHost("a"))
	if last := look(t, b, third); len(last) != 1 {
		t.Errorf("after its removal %+v", last)
	}
	if err := a.RenewHost("a"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("to renew what is not there: %v", err)
	}
	wantNames(t, inside(root, "tmp"))
}

func TestDropHost(t *testing.T) {
	for _, row := range []struct {
		name      string
		meanwhile func(*testing.T, *catalog.Catalog)
		stays     bool
	}{
		{"that nothing was heard of", func(*testing.T, *catalog.Catalog) {}, false},
		{"that another host has dropped", func(t *testing.T, c *catalog.Catalog) { must(t, c.RemoveHost("a")) }, false},
		{"that was renewed since", func(t *testing.T, c *catalog.Catalog) { must(t, c.RenewHost("a")) }, true},
		{"that was written anew since", func(t *testing.T, c *catalog.Catalog) { must(t, c.PutHost(someHost("a", "web"))) }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			must(t, c.PutHost(someHost("a", "data")))
			found := look(t, c, nil)["a"]
			time.Sleep(20 * time.Millisecond)
			row.meanwhile(t, c)
			must(t, c.DropHost(found))
			if stays := len(look(t, c, nil)) == 1; stays != row.stays {
				t.Errorf("it is there: %v, want %v", stays, row.stays)
			}
			wantNames(t, inside(root, "tmp"))
		})
	}
}

func TestHostThatCannotBeRead(t *testing.T) {
	for name, row := range map[string]struct {
		text string
		want error
	}{
		"garbage":                      {"garbage\n", catalog.ErrDamagedHost},
		"another host's":               {`{"version":1,"id":"b","name":"web"}`, catalog.ErrDamagedHost},
		"a name that is none":          {`{"version":1,"id":"a","name":"web\n2"}`, catalog.ErrDamagedHost},
		"written by a later version":   {`{"version":99,"id":"a","uses":[]}`, catalog.ErrNewer},
		"written by a version of none": {`{"id":"a","name":"web"}`, catalog.ErrDamagedHost},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			must(t, os.WriteFile(inside(root, "hosts", "a.json"), []byte(row.text), 0o600))
			if _, err := c.Hosts(nil); !errors.Is(err, row.want) || !strings.Contains(err.Error(), "host a ") {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}

// FuzzParseHost reads anything as a host's entry.
func FuzzParseHost(f *testing.F) {
	good, err := json.Marshal(someHost("a", "data"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "null", "[]", `{"version":1,"id":"a","name":"web","volumes":{"":{}}}`, `{"version":1e0,"id":"a"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := catalog.ParseHost("a", data)
		if err == nil && (h.ID != "a" || catalog.CheckName(h.Name) != nil || h.Version != catalog.Version) {
			t.Errorf("%+v", h)
		}
	})
}
