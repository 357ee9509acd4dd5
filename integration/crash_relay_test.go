//go:build integration

package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// TestWorkerIsKilledThatCarriesItsOwnMounts kills workers that have a file system by their own relay.
// The kernel cannot end such a process while it waits there for an answer (that a file is closed, say), and
// only the next one can bring that. The server is frozen meanwhile, so that there is something to wait for.
func TestWorkerIsKilledThatCarriesItsOwnMounts(t *testing.T) {
	beside(t)
	l := hosts(t)
	server, err := l.AddServer(t.Context(), lab.ServerOptions{Name: "own", Addresses: lab.Addresses(48)})
	if err != nil {
		t.Fatal(err)
	}
	p := startBare(t, l, "host-a", "EFS_VIA=relay", "EFS_ROOT=/", "EFS_FILESYSTEM=nfs://"+server.Addr("a").String()+"/export")
	p.mustCreate("kept")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const few, many, callers, limit = 5, 40, 12, 25 * time.Second
	stuck, round := 0, 0
	for ; round < few || stuck == 0 && round < many; round++ { // one in five cannot end
		end := func() {}
		if round > 0 { // at first nothing is under way, and no volume is mounted
			end = p.keepBusy(round, callers)
			time.Sleep(time.Second + time.Duration(random.IntN(1000))*time.Millisecond)
		}
		if err := server.Freeze(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		p.sh("read -r pid <" + p.dir + "/pid; kill -KILL $(cat /proc/$pid/task/*/children)")
		time.Sleep(3 * time.Second)
		if err := server.Thaw(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		end()
		p.hangUp()
		name := fmt.Sprint("after", round)
		if err := p.create(name); err != nil {
			t.Fatalf("after kill %d: %v", round, err)
		}
		took := time.Since(begun)
		t.Logf("the next worker creates a volume after %.1f s", took.Seconds())
		if took > limit {
			t.Errorf("that took more than %v", limit)
		}
		p.mustMount(name, "check")
		p.mustUnmount(name, "check")
		stuck = strings.Count(p.log(), "was killed and cannot end, it waits in the kernel")
	}
	t.Logf("%d of %d workers could not end before the next one had begun", stuck, round)
	if stuck == 0 {
		t.Error("that was not tried")
	}
	p.leavesNothing()
	p.kill("TERM")
}

// keepBusy creates volumes until the returned function is called, whatever comes of it.
func (p *barePlugin) keepBusy(round, callers int) (end func()) {
	var ended atomic.Bool
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := 0; !ended.Load(); i++ {
				_ = p.create(fmt.Sprintf("busy%d-%d-%d", round, caller, i)) // its worker may be killed
			}
		})
	}
	return func() { ended.Store(true); all.Wait() }
}
