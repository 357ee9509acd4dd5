package driver_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

const (
	// holdFor is how long a container has an exclusive volume: long enough for hosts to die meanwhile.
	holdFor = 50 * time.Millisecond
	// takeLimit is a call's budget, of which the lease may be waited for all but what is kept for the
	// mount: longer than the term after which a dead host's lease is taken.
	takeLimit = 25 * time.Second
)

// TestHostsContendForLeases has many processes create, remove and have for themselves the same few exclusive
// volumes, and some of them die over it. What they saw must be what some order of their calls would have
// shown them in which no volume is two hosts' at a time. Afterwards another host can have them all.
func TestHostsContendForLeases(t *testing.T) {
	all := []string{"create", "hold", "hold", "hold", "hold", "remove"}
	for _, row := range []struct {
		name                 string
		hosts, names, rounds int
		mortal               []orders // the first of the hosts
	}{
		{"and all live", 8, 2, 8, nil},
		{"and some die in what they do, or while they have a volume", 8, 2, 5, []orders{
			{Deeds: all, Dies: 500 * time.Millisecond},
			{Deeds: all, Dies: 900 * time.Millisecond},
			{Deeds: []string{"create", "hold"}, DiesHolding: 700 * time.Millisecond},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, _ := leaseServer(t)
			shared, seed := t.TempDir(), uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			run := func(n, rounds int, o orders) []deed {
				o.Shared, o.Data, o.Host, o.Names, o.Rounds, o.Seed, o.Server = shared, t.TempDir(), n, row.names, rounds, seed, server
				t.Cleanup(func() { detachAll(t, o) })
				return runContender(t, o)
			}
			histories := make([][]deed, row.hosts)
			var group sync.WaitGroup
			for n := range histories {
				group.Go(func() {
					if n < len(row.mortal) {
						histories[n] = run(n, 1000, row.mortal[n])
					} else {
						histories[n] = run(n, row.rounds, orders{Deeds: all})
					}
				})
			}
			group.Wait()
			last := run(row.hosts, 2*row.names, orders{Deeds: []string{"create", "hold"}, InTurn: true})
			for _, d := range last {
				if d.Outcome != "" {
					t.Errorf("in the end a host's %s of %s is %s", d.What, d.Name, d.Outcome)
				}
			}
			history := slices.Concat(append(histories, last)...)
			tellOutcomes(t, history, []string{"create", "take", "put", "look", "give"})
			wantLinearizable(t, history)
			for n := range row.names {
				wantWhole(t, shared, volumeName(n))
			}
		})
	}
}

// leaseServer is a server that forgets NFS clients when it is told to.
func leaseServer(t *testing.T) (netip.AddrPort, *sessiontest.Server) {
	t.Helper()
	mounttest.Loopback(t)
	sessions := sessiontest.New()
	return proxytest.Serve(t, func(conn *net.TCPConn) { sessions.Serve(t, conn) }).Addr, sessions
}

// detachAll takes away what a host that died has left mounted.
func detachAll(t *testing.T, o orders) {
	for n := range o.Names {
		h := testHost{options: driver.Options{Data: o.Data}}
		if _, err := mount.Detach(h.point(volumeName(n))); err != nil {
			t.Error(err)
		}
	}
}

// hold has a volume for this host alone for a moment, as a container does.
func (c *contending) hold(name, id string) error {
	outcome, err := c.tell(deed{What: "take", Name: name}, func(*deed) error {
		ctx, cancel := context.WithTimeout(context.Background(), takeLimit)
		defer cancel()
		return c.Mount(ctx, name, id, func(string) error { return nil })
	})
	if err != nil || outcome != "" {
		return err
	}
	for _, what := range []string{"put", "look"} {
		if _, err := c.tell(deed{What: what, Name: name}, func(one *deed) error { return c.use(one, id) }); err != nil {
			return err
		}
		if time.Sleep(holdFor / 2); c.diesHolding {
			c.die()
		}
	}
	_, err = c.tell(deed{What: "give", Name: name}, func(*deed) error {
		if err := c.Unmount(name, id); err != nil {
			return err
		}
		return c.awaitGiven(name)
	})
	return err
}

// awaitGiven waits until a volume's lease is given back, which happens after its unmount.
func (c *contending) awaitGiven(name string) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		info, err := c.Get(context.Background(), name)
		var known *driver.Error
		switch {
		case errors.As(err, &known) && known.Kind == driver.NotFound:
			return nil
		case err != nil:
			return err
		case info.Status["lease"] == "not this host's":
			return nil
		}
	}
	return errors.New("its lease was not given back within 10 s")
}
