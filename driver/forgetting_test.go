package driver_test

import (
	"fmt"
	"testing"
)

// A build host makes and removes volumes all day.
func TestRemovedVolumesLeaveNothingInMemory(t *testing.T) {
	shared := t.TempDir()
	maker, watcher := newHost(t, shared), newHost(t, shared)
	for i := range 20 {
		name := fmt.Sprint("v", i)
		maker.create(name)
		watcher.status(name)
		maker.mount(name, "1")
		maker.unmount(name, "1")
		maker.remove(name)
	}
	eventually(t, "the other host knows that they are gone", func() bool {
		volumes, _ := watcher.List(t.Context())
		return len(volumes) == 0
	})
	for who, h := range map[string]*testHost{"who made them": maker, "another host": watcher} {
		// A look in the background may end after its volume.
		if kept := h.RecordsKept(); kept > 3 {
			t.Errorf("%s keeps %d of their records", who, kept)
		}
	}
}
