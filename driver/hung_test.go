package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// The tests of this file have transports of a file system that do not answer, and a catalogue that does.

// hostWithHungMounts has volumes mounted, each by a transport of its own that answers nothing since the host's
// restart, and another host that sees the same catalogue.
func hostWithHungMounts(t *testing.T, volumes int, test func(t *testing.T, k *faults, a, b *testHost, revive func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		shared, k := t.TempDir(), &faults{}
		often := func(o *driver.Options) { o.Check = 10 * time.Second }
		a := newHost(t, shared, often, names(), func(o *driver.Options) { o.Kernel = k })
		b := newHost(t, shared, often, names(a), func(o *driver.Options) { o.Kernel = &faults{} })
		var clients []string
		for i := range volumes {
			a.create(hung(i), fmt.Sprintf("nfs=timeo=%d", 300+i))
			a.mount(hung(i), "1")
			clients = append(clients, k.mounts()[len(k.mounts())-1].Host)
		}
		a.stop()
		var releases []func()
		for _, client := range clients {
			releases = append(releases, k.hang(t, "server", client))
		}
		a.start()
		test(t, k, a, b, func() {
			for _, release := range releases {
				release()
			}
		})
	})
}

func hung(i int) string { return fmt.Sprint("hung-", i) }

func TestTransportThatHangsIsItsVolumesTroubleAlone(t *testing.T) {
	hostWithHungMounts(t, 1, func(t *testing.T, k *faults, a, b *testHost, revive func()) {
		before := len(k.mounts())
		pass(50 * time.Minute)
		if took := took(func() {
			a.create("other")
			a.mount("other", "1")
		}); took != 0 {
			t.Errorf("a mount by another transport took %v", took)
		}
		wantKind(t, b.Remove(t.Context(), hung(0)), driver.Conflict, "web-1 uses it")
		if trouble := a.status("other")["trouble"]; trouble != nil {
			t.Errorf("the other volume has the trouble %v", trouble)
		}
		if trouble := fmt.Sprint(a.status(hung(0))["trouble"]); !strings.Contains(trouble, "its mount has not answered since") {
			t.Errorf("its trouble is %q", trouble)
		}
		// One look, and each five minutes a try to connect without one.
		if tries := len(k.mounts()) - before; tries > 13 {
			t.Errorf("its server was tried %d times", tries)
		}
		revive()
		pass(10 * time.Second)
		if trouble := a.status(hung(0))["trouble"]; trouble != nil {
			t.Errorf("when its server is back it has the trouble %v", trouble)
		}
	})
}

func TestTransportWithAsManyCallsHungAsMayBeIsItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, _ *faults, h *testHost) {
		h.create("data")
		h.create("hung", "nfs=timeo=300")
		h.mount("hung", "1")
		h.dieBy("hung")
		if took := took(func() { h.mount("data", "1") }); took != 0 {
			t.Errorf("a mount by another transport took %v", took)
		}
		wantKind(t, mountOf(t.Context(), h, "hung", "2"), driver.Unavailable, "does not answer")
		if trouble := h.status("data")["trouble"]; trouble != nil {
			t.Errorf("another volume has the trouble %v", trouble)
		}
	})
}

func TestManyTransportsThatHangDelayNoSignOfLife(t *testing.T) {
	hostWithHungMounts(t, 20, func(t *testing.T, _ *faults, _, b *testHost, _ func()) {
		for range 5 {
			pass(time.Minute)
			wantKind(t, b.Remove(t.Context(), hung(0)), driver.Conflict, "web-1 uses it")
		}
	})
}

func TestTroubleOfTheCatalogueIsNotEndedByAnotherTransport(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		h.create("data")
		h.mount("data", "1")
		h.create("late", "nfs=timeo=300")
		release := k.hang(t, "open", h.options.FileSystem.Dir)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := mountOf(ctx, h, "late", "1"); err == nil {
			t.Fatal("it was mounted")
		}
		h.die()
		pass(time.Minute)
		release() // and the other is connected
		synctest.Wait()
		if trouble := fmt.Sprint(h.status("data")["trouble"]); !strings.Contains(trouble, "does not answer") {
			t.Errorf("the trouble is %q", trouble)
		}
	})
}
