package status_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

func zones(health ...proxy.Health) status.FileSystem {
	f := status.FileSystem{GroupState: proxy.GroupState{FileSystem: "fs"}}
	for i, h := range health {
		f.Targets = append(f.Targets, proxy.TargetState{
			Target: proxy.Target{Zone: string(rune('a' + i)), Addr: netip.MustParseAddrPort("10.0.0.1:2049")}, Health: h, Why: "refused",
		})
	}
	return f
}

func TestTroubleIsWhatNobodyElseCanMakeUpFor(t *testing.T) {
	troubled := zones(proxy.Up)
	troubled.Trouble = "exported read-only"
	for _, row := range []struct {
		name     string
		snapshot status.Snapshot
		want     []string
	}{
		{"nothing at all", status.Snapshot{}, nil},
		{"a file system without mount targets", status.Snapshot{FileSystems: []status.FileSystem{zones()}}, nil},
		{"one zone of two down", status.Snapshot{FileSystems: []status.FileSystem{zones(proxy.Down, proxy.Up)}}, nil},
		{"one zone of two not known", status.Snapshot{FileSystems: []status.FileSystem{zones(proxy.Down, proxy.Unknown)}}, nil},
		{
			"all zones down",
			status.Snapshot{FileSystems: []status.FileSystem{zones(proxy.Down, proxy.Doubt)}},
			[]string{"file system fs: no mount target answers: a=10.0.0.1:2049: refused; b=10.0.0.1:2049: refused"},
		},
		{"a file system's own", status.Snapshot{FileSystems: []status.FileSystem{troubled}}, []string{"file system fs: exported read-only"}},
		{"a setting", status.Snapshot{Trouble: []string{"EFS_VIA is wrong"}}, []string{"EFS_VIA is wrong"}},
		{"a volume's own", status.Snapshot{Mounted: []status.Volume{{Name: "v", Trouble: []string{"one", "two"}}}}, []string{"volume v: one", "volume v: two"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := row.snapshot.Troubles(); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestTroublesLeaveTheSnapshotAlone(t *testing.T) {
	s := status.Snapshot{Trouble: make([]string, 1, 10), Mounted: []status.Volume{{Name: "v", Trouble: []string{"one"}}}}
	s.Troubles()
	if s.Trouble[:2][1] != "" {
		t.Error("what is wrong with a volume was written behind the snapshot's own")
	}
}

// Scripts and the tests from outside read these names.
func TestTheJSONKeepsItsNames(t *testing.T) {
	s := status.Snapshot{
		Version: "v1", Host: "h", Known: 7,
		FileSystems: []status.FileSystem{zones(proxy.Up)},
		Mounted:     []status.Volume{{Name: "v", FileSystem: "fs", Mounts: map[string]int{"id": 2}, Trouble: []string{"one"}}},
		Elsewhere:   []status.Used{{Name: "w", FileSystem: "fs", By: []string{"web-2"}}, {Name: "x"}},
	}
	text, err := s.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Version     string
		Host        string
		Volumes     int
		FileSystems []struct {
			FileSystem string
			Home       bool
			Connected  bool
			Targets    []struct{ Zone, Addr, Health, Why string }
			Transports []any
			Moves      map[string]int
		}
		Mounted []struct {
			Volume, FileSystem string
			Mounts             map[string]int
			Trouble            []string
		}
		Elsewhere []struct {
			Volume, FileSystem string
			UsedBy             []string `json:"used_by"`
		} `json:"used_elsewhere"`
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Volumes != 7 || got.FileSystems[0].FileSystem != "fs" || got.FileSystems[0].Targets[0].Zone != "a" || got.FileSystems[0].Targets[0].Health != "up" ||
		got.Mounted[0].Volume != "v" || got.Mounted[0].Mounts["id"] != 2 || got.Mounted[0].Trouble[0] != "one" ||
		got.Elsewhere[0].Volume != "w" || got.Elsewhere[0].FileSystem != "fs" || got.Elsewhere[0].UsedBy[0] != "web-2" {
		t.Errorf("it is read as %+v", got)
	}
	if strings.Contains(string(text), "null") {
		t.Errorf("a program that goes through lists meets null:\n%s", text)
	}
}
