//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// swarmRounds is the environment variable with how often Postgres loses its node; make soak sets
// it. Then each kind of loss has its turn, and a partition lasts for minutes.
const swarmRounds = "SWARM_ROUNDS"

// loss is a way to take a node away from Postgres, and how it comes back.
type loss struct {
	name            string
	leave, comeBack func(*siteHost)
	// stays: Postgres stays where it is, or swarm may start it there again.
	stays bool
	// atLeast is how long the node is away in the long run.
	atLeast time.Duration
}

// cut is a node without network, but for the test's own ssh; joined ends it.
const (
	cut = "iptables -I INPUT -i eth0 -j DROP; iptables -I OUTPUT -o eth0 -j DROP; " +
		"iptables -I INPUT -i eth0 -p tcp --dport 22 -j ACCEPT; iptables -I OUTPUT -o eth0 -p tcp --sport 22 -j ACCEPT"
	joined = "iptables -D INPUT -i eth0 -p tcp --dport 22 -j ACCEPT; iptables -D OUTPUT -o eth0 -p tcp --sport 22 -j ACCEPT; " +
		"iptables -D INPUT -i eth0 -j DROP; iptables -D OUTPUT -o eth0 -j DROP"
)

var losses = []loss{
	{
		name:  "its node loses power",
		leave: func(one *siteHost) { one.h.PowerOff() },
		comeBack: func(one *siteHost) {
			one.must(one.h.PowerOn(one.t.Context()))
			one.engine.CloseIdleConnections()
			one.must(one.install(one.t.Context())) // what is in /run has gone
		},
	},
	{
		name:     "its node's machine is paused",
		leave:    func(one *siteHost) { one.must(one.h.Pause(one.t.Context())) },
		comeBack: func(one *siteHost) { one.must(one.h.Resume(one.t.Context())) },
	},
	{
		name:     "its node is cut off",
		leave:    func(one *siteHost) { one.sh(cut) },
		comeBack: func(one *siteHost) { one.sh(joined) },
		atLeast:  3 * time.Minute,
	},
	{
		name:     "the plugin of its node is killed",
		leave:    (*siteHost).killPlugin,
		comeBack: func(*siteHost) {},
		stays:    true,
	},
	{
		name:     "dockerd of its node is killed and started",
		leave:    func(one *siteHost) { one.sh("stop-docker KILL; start-docker") },
		comeBack: func(*siteHost) {},
		stays:    true,
	},
}

// TestSwarmKeepsOnePostgres has a Postgres under load, on an exclusive volume in a swarm, lose its
// node again and again. One at a time writes, and what was acknowledged is there.
func TestSwarmKeepsOnePostgres(t *testing.T) {
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv(swarmRounds), "2"))
	if err != nil || rounds < 1 {
		t.Fatalf("%s=%s: a number of rounds is wanted", swarmRounds, os.Getenv(swarmRounds))
	}
	long := rounds > len(losses)
	w := newSwarm(t, "host-a", "host-b", "host-c")
	w.sh(w.a, "docker node update --availability drain host-a")
	w.deploy("exclusive/stack.yaml", "app")
	d := &database{swarm: w, task: w.runs("app_db", nil), committed: map[int]bool{}}
	d.writable()
	d.sql("CREATE TABLE acknowledged (n bigint PRIMARY KEY)")
	d.exec("pgbench -h 127.0.0.1 -U postgres -i -q -s 1 postgres")
	var took []float64
	for round := range rounds {
		one := losses[round%len(losses)]
		t.Run(fmt.Sprintf("round %d, %s", round+1, one.name), func(part *testing.T) {
			w.t = part
			defer func() { w.t = t }()
			away := d.lose(one, round, long)
			part.Logf("writable on %s after %.1f s", d.on.h.Name(), away.Seconds())
			if !one.stays {
				took = append(took, away.Seconds())
			}
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	slices.Sort(took)
	t.Logf("writable on the other node after %.1f s (median of %d, at most %.1f s)", took[len(took)/2], len(took), took[len(took)-1])
}

// database is Postgres, where it runs now, and what it has acknowledged.
type database struct {
	*swarm
	task

	journaling string // the container that writes the journal

	mu        sync.Mutex // guards committed
	committed map[int]bool
}

func (d *database) exec(line string) string {
	d.t.Helper()
	return d.on.sh("docker exec " + d.container + " " + line)
}

func (d *database) sql(statement string) string {
	d.t.Helper()
	return d.exec(storySQL + "'" + statement + "'")
}

// writable waits until the data base takes a write for the first time.
func (d *database) writable() {
	d.t.Helper()
	d.ready(d.on.h, d.container)
	d.sql("CREATE TABLE IF NOT EXISTS writable (n int)")
	d.sql("INSERT INTO writable VALUES (1)")
}

// lose takes the data base's node away, and returns how long it took until it was writable again.
func (d *database) lose(one loss, round int, long bool) time.Duration {
	d.t.Helper()
	writes := d.load(round)
	time.Sleep(5 * time.Second)
	old, begun := d.task, time.Now()
	one.leave(old.on)
	comeBack := sync.OnceFunc(func() { one.comeBack(old.on) })
	defer comeBack() // other tests use the node too
	var away *siteHost
	if !one.stays {
		away = old.on
	}
	d.await(old, away, one.stays)
	took := time.Since(begun)
	writes()
	d.journal() // while the old node is away: what it had still to write comes after this
	if long {
		time.Sleep(time.Until(begun.Add(one.atLeast)))
	}
	comeBack()
	if away != nil {
		d.eventually(swarmLimit, "the old node has ended its container", func() bool {
			return old.on.sh("docker ps -q --filter name=app_db.") == ""
		})
		d.eventually(swarmLimit, "the swarm has its node again", func() bool {
			return d.sh(d.a, "docker node ls --format '{{.Status}}' | sort -u") == "Ready"
		})
	}
	d.check(old)
	return took
}

// await waits until the data base is writable, on a node that is not away.
func (d *database) await(old task, away *siteHost, stays bool) {
	d.t.Helper()
	d.eventually(swarmLimit, "it is writable", func() bool {
		d.task = d.runs("app_db", away)
		if !stays && d.task == old {
			return false
		}
		_, err := d.on.h.Run(d.t.Context(), "docker exec "+d.container+" "+storySQL+"'INSERT INTO writable VALUES (1)'")
		return err == nil
	})
}

// load has the data base busy. The returned function ends it.
func (d *database) load(round int) (end func()) {
	d.t.Helper()
	d.journal()
	d.on.sh("docker exec -d " + d.container + " pgbench -h 127.0.0.1 -U postgres -n -c 2 -T 3600 postgres")
	first := round * 1_000_000
	line := fmt.Sprintf(`docker exec %s sh -c "seq %d %d | sed 's/.*/INSERT INTO acknowledged VALUES (&) RETURNING n;/' | %s"`,
		d.container, first, first+999_999, strings.TrimSuffix(storySQL, "-c "))
	ctx, cancel := context.WithCancel(d.t.Context())
	ended := make(chan struct{})
	before, h := d.acknowledged(), d.on.h
	go func() {
		defer close(ended)
		_ = h.Stream(ctx, line, &acknowledging{d: d}, nil) // it ends with the container
	}()
	d.eventually(time.Minute, "it acknowledges writes", func() bool { return d.acknowledged() > before+5 })
	return func() { cancel(); <-ended }
}

// journal has the container that the data base runs in append to a journal beside its data, until it ends, and
// waits for the first line.
func (d *database) journal() {
	d.t.Helper()
	if d.journaling == d.container {
		return
	}
	d.on.sh(fmt.Sprintf(`docker exec -d %s sh -c 'while echo "%[1]s x" >>/var/lib/postgresql/data/journal; do sleep 0.1; done'`, d.container))
	d.eventually(time.Minute, "it writes the journal", func() bool { return slices.Contains(d.writers(), d.container) })
	d.journaling = d.container
}

func (d *database) acknowledged() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.committed)
}

// acknowledging notes the numbers that psql prints, one in a line, when they are committed.
type acknowledging struct {
	d    *database
	rest []byte // of a line that is not whole yet
}

func (a *acknowledging) Write(text []byte) (int, error) {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	a.rest = append(a.rest, text...)
	for {
		line, rest, whole := bytes.Cut(a.rest, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		if n, err := strconv.Atoi(string(line)); err == nil {
			a.d.committed[n] = true
		}
		a.rest = rest
	}
}

// check looks for every write that was acknowledged, for damage, and for a second writer.
func (d *database) check(old task) {
	d.t.Helper()
	there := map[int]bool{}
	for line := range strings.Lines(d.sql("SELECT n FROM acknowledged")) {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			d.t.Fatal(err)
		}
		there[n] = true
	}
	lost := 0
	for n := range d.committed {
		if !there[n] {
			lost++
		}
	}
	if lost > 0 {
		d.t.Errorf("%d of %d writes that were acknowledged are lost", lost, len(d.committed))
	}
	d.t.Logf("%d writes were acknowledged, all of them are there: %v", len(d.committed), lost == 0)
	d.sql("SELECT 1 / (sum(abalance) = (SELECT sum(delta) FROM pgbench_history))::int FROM pgbench_accounts")
	d.exec("pg_amcheck -h 127.0.0.1 -U postgres --all --install-missing --heapallindexed")
	d.oneAtATime(old)
}

// oneAtATime checks that no container has appended to the journal after another one had.
func (d *database) oneAtATime(old task) {
	d.t.Helper()
	writers := d.writers()
	for i, writer := range writers {
		if slices.Contains(writers[:i], writer) {
			d.t.Errorf("container %s has written after another one had", writer)
		}
	}
	if !slices.Contains(writers, old.container) || !slices.Contains(writers, d.container) {
		d.t.Errorf("the containers that the data base ran in are not among the journal's writers %q", writers)
	}
}

// writers are the containers that have appended to the journal, in their order, one that came again once more.
func (d *database) writers() (writers []string) {
	d.t.Helper()
	journal, err := os.Open(filepath.Join(d.lab.Server.Dir("/export"), "app_pgdata", "journal"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		d.t.Fatal(err)
	}
	defer journal.Close()
	for lines := bufio.NewScanner(journal); lines.Scan(); {
		writer, _, whole := strings.Cut(lines.Text(), " ")
		if !whole {
			d.t.Errorf("the journal has the line %q", lines.Text())
		}
		if len(writers) == 0 || writers[len(writers)-1] != writer {
			writers = append(writers, writer)
		}
	}
	return writers
}
