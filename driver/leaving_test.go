package driver_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// While the relays still run, the plugin unmounts what nobody uses; Docker would do it later,
// and wait for a relay that is gone.
func TestEndDetachesWhatNobodyUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &faults{}
		h := newHost(t, t.TempDir(), func(o *driver.Options) { o.Kernel, o.Warm = k, time.Hour })
		h.create("used")
		h.create("idle")
		h.mount("used", "1")
		h.mount("idle", "1")
		h.unmount("idle", "1")
		h.stop()
		if !k.isMounted(h.point("used")) {
			t.Error("a volume in use is unmounted")
		}
		if k.isMounted(h.point("idle")) {
			t.Error("a volume that nobody uses stays mounted")
		}
		h.start()
		h.wantCounts("used", map[string]int{"1": 1})
		h.mount("idle", "2")
	})
}

func TestEndWaitsForNoDeadFileSystemForLong(t *testing.T) {
	for _, call := range []string{"detach", "close"} {
		t.Run(call+" hangs", func(t *testing.T) {
			bubble(t, func(t *testing.T, k *faults, h *testHost) {
				h.create("data")
				h.mount("data", "1")
				h.unmount("data", "1")
				dir := h.options.FileSystem.Dir
				if call == "detach" {
					dir = h.point("data")
				}
				release := k.hang(t, call, dir)
				if d := took(h.stop); d > 3*time.Second {
					t.Errorf("it took %v", d)
				}
				release()
				h.start()
				h.mount("data", "2")
			})
		})
	}
}

func TestEndWaitsForTheRootsUnmount(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		h.create("data")
		release := k.hang(t, "close", h.options.FileSystem.Dir)
		time.AfterFunc(time.Second, release)
		if d := took(h.stop); d < time.Second {
			t.Errorf("it took %v, the root was unmounted after 1 s", d)
		}
		h.start()
	})
}
