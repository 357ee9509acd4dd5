//go:build integration

package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// swarmLimit is how long a node may take to start what it is told to.
const swarmLimit = 3 * time.Minute

// swarm is hosts as nodes of a swarm: host-a, its manager, host-b and perhaps more.
type swarm struct{ *story }

func newSwarm(t *testing.T, names ...string) *swarm {
	alone(t, append([]string{processors}, names[2:]...)...)
	l := hosts(t)
	var nodes []*lab.Host
	for _, name := range names {
		nodes = append(nodes, l.Host(name))
	}
	w := &swarm{&story{&site{t: t, lab: l, a: nodes[0], b: nodes[1]}}}
	w.open(nodes...)
	w.sh(w.a, "docker swarm init --advertise-addr "+w.a.Addr().String())
	t.Cleanup(w.dissolve)
	token := w.sh(w.a, "docker swarm join-token -q worker")
	for _, one := range w.hosts[1:] {
		one.sh("docker swarm join --token " + token + " --advertise-addr " + one.h.Addr().String() + " " + w.a.Addr().String() + ":2377")
	}
	return w
}

// noContainers waits until a node runs none any more.
const noContainers = `until [ -z "$(docker ps -q)" ]; do sleep 0.5; done`

// removeStacks ends what the swarm runs.
func (w *swarm) removeStacks(ctx context.Context) error {
	if _, err := w.a.Run(ctx, "docker stack ls --format '{{.Name}}' | xargs -r -n 1 docker stack rm"); err != nil {
		return err
	}
	for _, one := range w.hosts {
		if _, err := one.h.Run(ctx, noContainers); err != nil {
			return err
		}
	}
	return nil
}

func (w *swarm) dissolve() {
	ctx, cancel := context.WithTimeout(context.Background(), swarmLimit)
	defer cancel()
	if err := w.removeStacks(ctx); err != nil {
		w.t.Errorf("clean up: %v", err)
	}
	for i := range w.hosts {
		one := w.hosts[len(w.hosts)-1-i] // the manager last
		if _, err := one.h.Run(ctx, "docker swarm leave --force"); err != nil {
			w.t.Errorf("clean up: %v", err)
		}
	}
}

// deploy starts a file of examples/ as a stack.
func (w *swarm) deploy(file, stack string) {
	w.t.Helper()
	w.sh(w.a, "docker stack deploy --detach=true --resolve-image never -c "+w.example(w.a, file)+" "+stack+" >&2")
}

// task is a service's container and where it runs.
type task struct {
	on        *siteHost
	container string
}

// at is when something of the container's State was, by this machine's clock: those of two nodes may be seconds apart.
func (t task) at(what string) time.Time {
	t.on.t.Helper()
	asked := time.Now()
	said := strings.Fields(t.on.sh("date --utc +%Y-%m-%dT%H:%M:%S.%NZ && docker inspect -f '{{.State." + what + "}}' " + t.container))
	var times []time.Time // now and then
	for _, text := range said {
		one, err := time.Parse(time.RFC3339Nano, text)
		t.on.must(err)
		times = append(times, one)
	}
	if len(times) != 2 || times[1].IsZero() {
		t.on.t.Fatalf("%s of %s on %s: %q", what, t.container, t.on.h.Name(), said)
	}
	return asked.Add(times[1].Sub(times[0]))
}

// runs waits until a node, other than the one that is away, runs a service's container.
func (w *swarm) runs(service string, away *siteHost) (found task) {
	w.t.Helper()
	w.eventually(swarmLimit, service+" runs", func() bool {
		for _, one := range w.hosts {
			if one == away {
				continue
			}
			if id := one.sh("docker ps -q --no-trunc --filter name=" + service + ". | head -n 1"); id != "" {
				found = task{one, id}
				return true
			}
		}
		return false
	})
	return found
}
