package driver_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// A local directory has neither server nor relay: exclusive volumes work there, and say what does
// not hold. What leases do is tested on hosts with a file server, in integration/.
func TestExclusiveVolumeOfALocalDirectory(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data", "access=exclusive")
	h.mount("data", "1")
	if text, _ := h.status("data")["lease"].(string); !strings.HasPrefix(text, "none: a local directory") {
		t.Errorf("Status says %q", text)
	}
	if host, err := h.Preempt(t.Context(), "data"); err == nil || host != "" || !strings.Contains(err.Error(), "no exclusive volume of a file server") {
		t.Errorf("to preempt it: %q, %v", host, err)
	}
	h.unmount("data", "1")
}

func TestExclusiveByDefaultLeavesWhoOnlyReads(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared, func(o *driver.Options) { o.Volume.Access = catalog.AccessExclusive })
	h.create("data")
	h.create("config", "readonly=true")
	for name, want := range map[string]string{"data": `"version": 3`, "config": `"version": 1`} {
		record, err := os.ReadFile(filepath.Join(shared, catalog.DirName, "volumes", name+".json"))
		if err != nil || !strings.Contains(string(record), want) {
			t.Errorf("the record of %s is %s, %v", name, record, err)
		}
	}
}
