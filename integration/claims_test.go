//go:build integration

package integration

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// Tests run beside each other as far as they leave each other alone: each first says what it uses of
// the lab, by one of the following, and waits until it may.

const (
	// mainSite is host-a, host-b and the lab's own server.
	mainSite = "host-a, host-b and their server"
	// processors is what tests need that keep a swarm of hosts busy, or make keys and connect with TLS:
	// emulated beside each other, no call of theirs ends in time.
	processors = "the machine's processors"
	// atWork is how many tests are at work at once. Most of their time they wait, but each keeps an
	// emulated host busy, and a machine is expected to have two processors.
	atWork = 2
)

// claim is what a test uses.
type claim struct {
	test   string
	alone  []string // by nobody else meanwhile
	beside []string // others may as well
	begin  chan struct{}
}

// claims are those of all tests that have not ended.
var claims struct {
	mu            sync.Mutex
	waiting, used []*claim
}

// alone gives the test the main site, and further hosts, for itself: it needs both hosts, or breaks what
// others stand on.
func alone(t *testing.T, further ...string) {
	t.Helper()
	(&claim{alone: append([]string{mainSite}, further...)}).await(t)
}

// beside lets the test use the main site together with others of its kind.
func beside(t *testing.T) {
	t.Helper()
	(&claim{beside: []string{mainSite}}).await(t)
}

// apart gives the test a host that is not of the main site, and what else it names, for itself.
func apart(t *testing.T, host string, further ...string) {
	t.Helper()
	(&claim{alone: append([]string{host}, further...)}).await(t)
}

// apartOnServer is apart for a test that needs the main site's server to be well.
func apartOnServer(t *testing.T, host string) {
	t.Helper()
	(&claim{alone: []string{host}, beside: []string{mainSite}}).await(t)
}

func (c *claim) await(t *testing.T) {
	t.Helper()
	t.Parallel()
	c.test, c.begin = t.Name(), make(chan struct{})
	claims.mu.Lock()
	claims.waiting = append(claims.waiting, c)
	// Who uses most comes first, and then who needs the main site alone: those run one after another,
	// and take longest. What is left can run beside them, and beside each other.
	slices.SortFunc(claims.waiting, func(a, b *claim) int {
		return cmp.Or(cmp.Compare(len(b.alone), len(a.alone)), -cmp.Compare(a.onMainSite(), b.onMainSite()), cmp.Compare(a.test, b.test))
	})
	beginTests()
	claims.mu.Unlock()
	<-c.begin
	t.Cleanup(c.end) // the last of the test's
}

func (c *claim) end() {
	claims.mu.Lock()
	defer claims.mu.Unlock()
	claims.used = slices.DeleteFunc(claims.used, func(one *claim) bool { return one == c })
	beginTests()
}

// beginTests lets begin who may. The caller holds the lock.
func beginTests() {
	claims.waiting = slices.DeleteFunc(claims.waiting, func(c *claim) bool {
		if len(claims.used) >= atWork || !c.fits() {
			return false
		}
		claims.used = append(claims.used, c)
		close(c.begin)
		return true
	})
}

// onMainSite is 1 for a test that has the main site alone, and 0 otherwise.
func (c *claim) onMainSite() int {
	if slices.Contains(c.alone, mainSite) {
		return 1
	}
	return 0
}

// fits tells whether nobody is in the way. Who needs less waits for those who wait for it alone.
func (c *claim) fits() bool {
	for _, other := range claims.used {
		if common(c.alone, other.alone) || common(c.alone, other.beside) || common(c.beside, other.alone) {
			return false
		}
	}
	return !slices.ContainsFunc(claims.waiting, func(other *claim) bool { return common(c.beside, other.alone) })
}

func common(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// mayUseHosts tells whether the test, or the one that it is a part of, has said what it uses.
func mayUseHosts(t *testing.T) bool {
	claims.mu.Lock()
	defer claims.mu.Unlock()
	return slices.ContainsFunc(claims.used, func(c *claim) bool {
		return t.Name() == c.test || strings.HasPrefix(t.Name(), c.test+"/")
	})
}

// bundleLocks has a mutex for each host: tests beside each other bring the plugin's files to the same place.
var bundleLocks sync.Map

// lockBundle keeps others from bringing the plugin to a host until the caller unlocks the result.
func lockBundle(h *lab.Host) *sync.Mutex {
	mutex, _ := bundleLocks.LoadOrStore(h.Name(), &sync.Mutex{})
	mutex.(*sync.Mutex).Lock()
	return mutex.(*sync.Mutex)
}
