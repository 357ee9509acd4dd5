package driver_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func TestVolumes(t *testing.T) {
	shared := t.TempDir()
	if err := os.Mkdir(filepath.Join(shared, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	a, b := newHost(t, shared, names()), newHost(t, shared)
	a.create("made", "remove=keep")
	a.create("there")
	b.mount("made", "1")
	a.mount("made", "1")
	b.restart() // it looks at the others at its start
	all := a.Volumes(t.Context())
	if len(all) != 2 || all[0].Name != "made" || all[0].Adopted || all[0].Remove != "keep" || all[1].Name != "there" || !all[1].Adopted || len(all[1].UsedBy) != 0 {
		t.Errorf("volumes %+v", all)
	}
	eventually(t, "both hosts are shown", func() bool {
		all := b.Volumes(t.Context())
		return len(all) == 2 && slices.Contains(all[0].UsedBy, "web-1") && len(all[0].UsedBy) == 2
	})
}

func TestSize(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.mount("data", "1")
	h.write("data", "file", "rows")
	reports := 0
	sum, err := h.Size(t.Context(), "data", func(tree.Usage) { reports++ })
	if err != nil || sum.Files != 1 || reports != 1 {
		t.Errorf("%+v, %v, %d reports", sum, err, reports)
	}
	_, err = h.Size(t.Context(), "nothing", func(tree.Usage) {})
	wantKind(t, err, driver.NotFound)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Size(ended, "data", func(tree.Usage) {}); err == nil {
		t.Error("a walk that nobody waits for goes on")
	}
}
