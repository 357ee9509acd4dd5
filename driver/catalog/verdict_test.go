package catalog_test

import (
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func TestFirstVerdictCounts(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	for _, row := range []struct {
		name          string
		c             *catalog.Catalog
		entry         string
		verdict, want catalog.Verdict
	}{
		{"the first host's", a, entry, catalog.Stays, catalog.Stays},
		{"for another host", b, entry, catalog.Goes, catalog.Stays},
		{"and for a later question", a, entry, catalog.Keeps, catalog.Stays},
		{"of that removal only", b, "20261121T000000Z-other-data", catalog.Goes, catalog.Goes},
		{"and none of what nobody can agree on", a, "", catalog.Goes, catalog.Goes},
		{"whoever asks", b, "", catalog.Stays, catalog.Stays},
	} {
		if got, err := row.c.Decide(row.entry, row.verdict); err != nil || got != row.want {
			t.Errorf("%s: %s, %v", row.name, got, err)
		}
	}
}

func TestHostsAtOnceGetOneVerdict(t *testing.T) {
	root := t.TempDir()
	for round := range 20 {
		id := catalog.NewTrashEntry("data", time.Unix(int64(round), 0), "ABCDEF")
		got := make([]catalog.Verdict, 8)
		var hosts sync.WaitGroup
		for n := range got {
			c := open(t, root)
			hosts.Go(func() { got[n], _ = c.Decide(id, []catalog.Verdict{catalog.Goes, catalog.Stays}[n%2]) })
		}
		hosts.Wait()
		for _, one := range got {
			if one != got[0] || one == "" {
				t.Fatalf("verdicts %v", got)
			}
		}
	}
}

func TestVerdictThatIsNoneIsDamaged(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	write(t, inside(root, "verdicts", entry), "perhaps")
	_, err := c.Decide(entry, catalog.Goes)
	wantError(t, err, catalog.ErrDamaged)
}

// TestReplaceIsForWhatWasThere has a host write what it meant to a while ago.
func TestReplaceIsForWhatWasThere(t *testing.T) {
	going := record("data", removing(entry, 7))
	for _, row := range []struct {
		name  string
		there catalog.Record
		fails error
	}{
		{"which is there", going, nil},
		{"not for another volume", record("data", by("other"), removing(entry, 7)), catalog.ErrChanged},
		{"not for another state", record("data"), catalog.ErrChanged},
		{"not for another removal", record("data", removing("20261121T000000Z-other-data", 7)), catalog.ErrChanged},
		{"not for none", record("else"), catalog.ErrNotFound},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			there := add(t, c, row.there)
			err := c.Replace(going, record("data"))
			if row.fails == nil {
				must(t, err)
				there = record("data")
			} else {
				wantError(t, err, row.fails)
			}
			wantRecord(t, c, there)
			wantNames(t, inside(root, "tmp"))
		})
	}
}
