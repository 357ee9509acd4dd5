package driver_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// faults is a kernel that mounts from no server and whose calls can be told to hang,
// as those to a dead server do. A root is the directory itself; what is attached is bound.
type faults struct {
	export string // the directory of a root that is on a server

	sys string // stands for sysfs, "" for none

	mu       sync.Mutex // guards the following fields
	opened   []mount.Mount
	lacks    error // what Offers says
	refuses  error // what mounts of servers fail with
	attached map[string]bool
	hangs    map[string]chan struct{} // closed when the call may go on
	hung     int                      // calls that had to wait
	refusal  error                    // with which the next mount fails
	joins    netip.AddrPort           // the server whose connection mounts through relays join
}

var _ driver.Kernel = (*faults)(nil)

// deadFor is how long a hang lasts that nobody ends: a call that waits for it fails its
// test rather than the time limit of all.
const deadFor = time.Hour

// hang keeps a call ("open", "server", "detach") on a directory from ending until
// the result is called. A "server" may also be told by the NFS client's identity, which is of one transport.
func (k *faults) hang(t *testing.T, call, dir string) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hangs == nil {
		k.hangs = map[string]chan struct{}{}
	}
	k.hangs[call+" "+dir] = gate
	var once sync.Once
	release = func() {
		once.Do(func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.hangs[call+" "+dir] == gate {
				delete(k.hangs, call+" "+dir)
			}
			close(gate)
		})
	}
	endLater(t, release)
	return release
}

func endLater(t *testing.T, release func()) {
	t.Helper()
	timer := time.AfterFunc(deadFor, release)
	t.Cleanup(func() {
		timer.Stop()
		release()
	})
}

func (k *faults) wait(call, dir string) {
	k.mu.Lock()
	gate := k.hangs[call+" "+dir]
	if gate != nil {
		k.hung++
	}
	k.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// hangsNow waits until that many calls had to wait.
func (k *faults) hangsNow(t *testing.T, calls int) {
	t.Helper()
	eventually(t, "the call waits", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.hung == calls
	})
}

func (k *faults) takeRefusal() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.refusal
	k.refusal = nil
	return err
}

// mounts are the root mounts that were begun.
func (k *faults) mounts() []mount.Mount {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.opened
}

// isMounted tells whether something is attached at a volume's mountpoint.
func (k *faults) isMounted(point string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.attached[point]
}

func (k *faults) Open(m mount.Mount) driver.Root {
	k.mu.Lock()
	k.opened = append(k.opened, m)
	k.mu.Unlock()
	server := serverOf(m)
	k.mu.Lock()
	if k.joins.IsValid() && server.Addr().IsLoopback() && server.Port() != k.joins.Port() {
		server = k.joins
	}
	k.mu.Unlock()
	r := &faultyRoot{kernel: k, source: m.Source, client: m.Host, server: server, done: make(chan struct{}), finished: make(chan struct{})}
	go func() {
		k.wait("open", m.Source)
		dir := m.Source
		k.mu.Lock()
		refusal := k.refuses
		k.mu.Unlock()
		if m.Type != "bind" {
			dir, r.err = k.export, refusal
		}
		if r.err == nil {
			r.err = k.takeRefusal()
		}
		if r.err == nil {
			r.dir, r.err = tree.Open(dir)
		}
		close(r.done)
	}()
	return r
}

func (k *faults) Detach(target string) (mounted bool, err error) {
	k.mu.Lock()
	mounted = k.attached[target]
	delete(k.attached, target)
	k.mu.Unlock()
	if !mounted {
		return false, nil
	}
	_, err = mount.Detach(target)
	k.wait("detach", target)
	return true, err
}

func (k *faults) Under(dir string) (map[string]bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	under := map[string]bool{}
	for target := range maps.Keys(k.attached) {
		if filepath.Dir(target) == dir {
			under[filepath.Base(target)] = true
		}
	}
	return under, nil
}

func (k *faults) Offers(string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lacks
}

// Transports are none, or in a directory: what the machine's kernel has, and is set to, is not this one's.
func (k *faults) Transports() (*sunrpc.Table, error) {
	if k.sys == "" {
		return nil, sunrpc.ErrUnsupported
	}
	return sunrpc.OpenDir(k.sys)
}

type faultyRoot struct {
	kernel *faults
	source string
	client string
	server netip.AddrPort
	done   chan struct{}
	dir    *tree.Dir
	err    error

	closing  sync.Once
	finished chan struct{}
}

func (r *faultyRoot) Done() <-chan struct{} { return r.done }
func (r *faultyRoot) Err() error            { return r.err }
func (r *faultyRoot) Warning() error        { return nil }
func (r *faultyRoot) Dir() *tree.Dir        { return r.dir }

// Attach mounts really: a look at the mounts compares what is there.
func (r *faultyRoot) Attach(dir *tree.Dir, target string, _ mount.Flags) error {
	r.kernel.mu.Lock()
	defer r.kernel.mu.Unlock()
	if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.FD()), target, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if r.kernel.attached == nil {
		r.kernel.attached = map[string]bool{}
	}
	r.kernel.attached[target] = true
	return nil
}

func (r *faultyRoot) Introductions() (int, error) { return 0, nil }

func (r *faultyRoot) Server() (netip.AddrPort, error) {
	r.kernel.wait("server", r.source)
	r.kernel.wait("server", r.client)
	return r.server, nil
}

// serverOf is the address that a mount is to go to; that of no server is zero.
func serverOf(m mount.Mount) netip.AddrPort {
	host, _, _ := strings.Cut(m.Source, ":")
	addr, err := netip.ParseAddr(host)
	i := slices.IndexFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "port=") })
	if err != nil || i < 0 {
		return netip.AddrPort{}
	}
	port, _ := strconv.ParseUint(strings.TrimPrefix(m.Options[i], "port="), 10, 16)
	return netip.AddrPortFrom(addr, uint16(port))
}

func (r *faultyRoot) Finished() <-chan struct{} { return r.finished }

func (r *faultyRoot) Close() {
	r.closing.Do(func() {
		go func() {
			<-r.done
			r.kernel.wait("close", r.source)
			if r.err == nil {
				_ = r.dir.Close()
			}
			close(r.finished)
		}()
	})
}

// bubble runs a test in which hours pass at once, on a host with that kernel.
func bubble(t *testing.T, test func(t *testing.T, k *faults, h *testHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := &faults{}
		test(t, k, newHost(t, t.TempDir(), func(o *driver.Options) { o.Kernel = k }))
	})
}

// bubbleOn is bubble of a host with other options.
func bubbleOn(t *testing.T, change func(*driver.Options), test func(t *testing.T, h *testHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, newHost(t, "", func(o *driver.Options) { o.Kernel = &faults{} }, change))
	})
}

// die has the home file system's catalogue, which is mounted, answer nothing any more: as many
// questions as may be under way get no answer. The result ends that.
func (h *testHost) die() (revive func()) {
	h.t.Helper()
	return h.leaveAsking(func(question func(context.Context) error) error {
		return h.AskHome(context.Background(), question, nil)
	})
}

// dieBy has the transport of a volume that is mounted do so.
func (h *testHost) dieBy(volume string) (revive func()) {
	h.t.Helper()
	return h.leaveAsking(func(question func(context.Context) error) error {
		return h.AskBy(context.Background(), volume, question)
	})
}

// leaveAsking asks as many questions as may be under way, and leaves them without an answer.
func (h *testHost) leaveAsking(ask func(question func(context.Context) error) error) (revive func()) {
	h.t.Helper()
	dead := make(chan struct{})
	for range 32 {
		h.behind(func() {
			_ = ask(func(context.Context) error {
				<-dead
				return nil
			})
		})
	}
	synctest.Wait()
	var once sync.Once
	revive = func() { once.Do(func() { close(dead) }) }
	endLater(h.t, revive)
	return revive
}

// behind runs a call in the background, until which the host is not stopped.
func (h *testHost) behind(call func()) {
	h.t.Helper()
	done := make(chan struct{})
	h.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		call()
	}()
}

// took runs a call and returns how long it was.
func took(call func()) time.Duration {
	start := time.Now()
	call()
	return time.Since(start)
}

func mountOf(ctx context.Context, h *testHost, name, id string) error {
	return h.Mount(ctx, name, id, func(string) error { return nil })
}
