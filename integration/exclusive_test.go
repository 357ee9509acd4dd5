//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// journal is a container's program that appends a line with its host's name to a file, again and
// again, and says when it cannot.
const journal = `busybox sh -c 'n=0; while n=$((n+1)) && echo "%s $n" >>/data/journal; do sleep 0.05; done; echo cannot write; sleep 600'`

// exclusive is an exclusive volume with a container on one host at a time.
type exclusive struct {
	*site
	volume string
}

func newExclusive(t *testing.T, volume string) *exclusive {
	e := &exclusive{newSite(t), volume}
	e.hosts[0].sh("docker volume create -d efs -o access=exclusive " + volume)
	return e
}

// in runs a part of the test.
func (e *exclusive) in(name string, part func()) {
	whole := e.t
	whole.Run(name, func(t *testing.T) {
		e.t = t
		defer func() { e.t = whole }()
		part()
	})
}

// start is the command that starts the writer on a host; it ends when the writer runs.
func (e *exclusive) start(one *siteHost) string {
	return fmt.Sprintf("docker run -d --name writer --network none -v %s:/data "+journal, e.volume, one.h.Name())
}

// lines are the journal's, as the server has them, by the host that wrote them, in order.
func (e *exclusive) lines() (writers []string, count map[string]int) {
	e.t.Helper()
	content, err := os.ReadFile(filepath.Join(e.lab.Server.Dir("/export"), e.volume, "journal"))
	if err != nil && !os.IsNotExist(err) {
		e.t.Fatal(err)
	}
	count = map[string]int{}
	for line := range strings.Lines(string(content)) {
		host, _, whole := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !whole {
			e.t.Errorf("the journal has the line %q", line)
		}
		if count[host]++; len(writers) == 0 || writers[len(writers)-1] != host {
			writers = append(writers, host)
		}
	}
	return writers, count
}

// writes waits until a host's writer has appended more lines.
func (e *exclusive) writes(one *siteHost) {
	e.t.Helper()
	_, before := e.lines()
	e.eventually(30*time.Second, one.h.Name()+" writes", func() bool {
		_, now := e.lines()
		return now[one.h.Name()] > before[one.h.Name()]+3
	})
}

// wrote checks who has written, in which order: nobody comes again after another.
func (e *exclusive) wrote(want ...string) {
	e.t.Helper()
	if writers, count := e.lines(); fmt.Sprint(writers) != fmt.Sprint(want) {
		e.t.Errorf("the journal was written by %v (%v lines), want %v", writers, count, want)
	}
}

// partition cuts a host off from the file server, until healed.
func (s *siteHost) partition() {
	s.sh("for c in 'INPUT -p tcp --sport' 'OUTPUT -p tcp --dport'; do iptables -I $c 2049 -j DROP; done")
	s.t.Cleanup(func() { _, _ = s.h.Run(context.Background(), healed) })
}

const healed = "for c in 'INPUT -p tcp --sport' 'OUTPUT -p tcp --dport'; do iptables -D $c 2049 -j DROP 2>/dev/null || true; done"

func (s *siteHost) heal() { s.sh(healed) }

// takeover starts the writer on a host, whose plugin may take some time at most to mount the volume: what
// docker run takes beside that is the machine's.
func (e *exclusive) takeover(one *siteHost, atMost time.Duration) {
	e.t.Helper()
	e.takeoverBy(one, e.start(one), atMost)
}

// takeoverBy is takeover by another command.
func (e *exclusive) takeoverBy(one *siteHost, command string, atMost time.Duration) {
	e.t.Helper()
	mark, begun := one.mark(), time.Now()
	one.sh(command)
	ran := time.Since(begun)
	e.writes(one)
	took, mounts := time.Duration(0), 0
	for _, c := range one.calls(mark, e.volume) {
		if c.call == "Mount" {
			took, mounts = took+c.took, mounts+1
		}
	}
	e.t.Logf("%s mounts it in %.1f s, and the writer runs there after %.1f s", one.h.Name(), took.Seconds(), ran.Seconds())
	if mounts != 1 || took > atMost {
		e.t.Errorf("%d mounts took %v, want one, and %v at most", mounts, took, atMost)
	}
}

// contend has a host ask for the volume again and again, and be refused each time, until the result is called.
func (e *exclusive) contend(one *siteHost) (stop func()) {
	t, ctx, refused := e.t, e.t.Context(), 0
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			default:
			}
			switch _, err := one.h.Run(ctx, "docker rm -f writer >/dev/null 2>&1; "+e.start(one)); {
			case err == nil:
				t.Errorf("%s has got the volume meanwhile", one.h.Name())
				return
			case strings.Contains(err.Error(), "has it for itself"):
				refused++
			default:
				t.Errorf("%s is told %v", one.h.Name(), err)
			}
		}
	}()
	return func() {
		close(ended)
		if <-done; refused == 0 {
			t.Error("nobody was refused meanwhile")
		}
		one.sh("docker rm -f writer >/dev/null")
	}
}

// leaseTerm is how long a host has to be silent until its lease can be taken (docs/exclusive.md).
const leaseTerm = 15 * time.Second

// slowHost is what a mount takes on a test host at most, beyond waiting for a lease; it is
// less than a term, so that a lease which is not given up shows.
const slowHost = 10 * time.Second

func TestExclusiveVolume(t *testing.T) {
	e := newExclusive(t, "pgdata")
	a, b := e.hosts[0], e.hosts[1]

	// A name that other hosts do not know of could not be evicted.
	const identifier = " >/sys/module/nfs/parameters/nfs4_unique_id"
	a.sh("printf web-1" + identifier)
	t.Cleanup(func() { _, _ = a.h.Run(context.Background(), "printf '\\0'"+identifier) })
	if said := a.fails(20*time.Second, e.start(a)); !strings.Contains(said, `introduces itself as "web-1"`) {
		t.Errorf("with an identifier of its own it is told %q", said)
	}
	a.sh("docker rm -f writer >/dev/null; printf '\\0'" + identifier)

	a.sh(e.start(a))
	e.writes(a)

	said := b.fails(30*time.Second, strings.Replace(e.start(b), "docker run", "docker run --restart always", 1))
	if !strings.Contains(said, "host host-a has it for itself (access=exclusive): stop its container there") {
		t.Errorf("a second host is told %q", said)
	}
	if got := a.sh("docker volume inspect -f '{{.Status.lease}}' pgdata"); got != "this host's" {
		t.Errorf("Status on host-a says %q", got)
	}
	e.wrote("host-a")

	// A second container of the same host shares it.
	a.sh("docker run --rm --network none -v pgdata:/data busybox grep -q host-a /data/journal")

	// Another host reads beside it, by a second volume that never writes.
	b.sh("docker volume create -d efs -o path=/pgdata -o readonly=true readers")
	b.sh("docker run --rm --network none -v readers:/data busybox grep -q host-a /data/journal && docker volume rm readers")
	e.writes(a)

	// The container that was refused has not run, so Docker has no restart policy for it: it waits for somebody to start it.
	a.sh("docker rm -f writer >/dev/null")
	if got := b.sh("docker inspect -f '{{.State.Status}}' writer"); got != "created" {
		t.Errorf("the container that was refused is %q", got)
	}
	e.takeoverBy(b, "docker start writer", slowHost)
	e.wrote("host-a", "host-b")
	if said := a.sh("docker volume rm pgdata 2>&1 || true"); !strings.Contains(said, "host-b uses it") {
		t.Errorf("its removal from the other host is told %q", said)
	}
	b.sh("docker rm -f writer >/dev/null")
	a.sh("docker volume rm pgdata && docker volume create -d efs -o access=exclusive pgdata")
	a.sh(e.start(a))
	e.writes(a)
	e.wrote("host-a")
	a.sh("docker rm -f writer >/dev/null")
}

// open starts a container on a host that has the volume: it holds a file open, with a lock, and syncs what it writes.
func (e *exclusive) open(one *siteHost) {
	e.t.Helper()
	one.must(one.h.Upload(e.t.Context(), "../build/lab/writer", "/root/writer", 0o755))
	one.sh(fmt.Sprintf("docker run -d --name open --network none -v %s:/data -v /root/writer:/writer:ro busybox sh -c '/writer -for 1h /data/open; sleep 600'", e.volume))
}

// getErrors waits until both containers of a host that has lost the volume to another have heard of it.
func (e *exclusive) getErrors(one, to *siteHost) {
	e.t.Helper()
	e.eventually(time.Minute, "the old writer gets an error", func() bool {
		return strings.Contains(one.sh("docker logs writer 2>&1"), "cannot write")
	})
	e.eventually(time.Minute, "who has a file open gets an error", func() bool {
		return strings.Contains(one.sh("docker logs open 2>&1"), `"error":`)
	})
	e.eventually(time.Minute, "Status on the old host says why", func() bool {
		return strings.Contains(one.sh("docker volume inspect -f '{{.Status.trouble}}' "+e.volume), "lost its lease to host "+to.h.Name())
	})
}

// TestExclusiveVolumeIsTakenFromAHost has the volume taken from its host in several ways, by the
// other host in turns. The old one comes back, must not write one byte more, and hears of it. A loss of power is
// TestSwarmKeepsOnePostgres's.
func TestExclusiveVolumeIsTakenFromAHost(t *testing.T) {
	e := newExclusive(t, "taken")
	old, next := e.hosts[0], e.hosts[1]
	old.sh(e.start(old))
	wrote := []string{old.h.Name()}
	for _, row := range []struct {
		name            string
		leave, comeBack func(*siteHost)
	}{
		{"that is cut off", (*siteHost).partition, (*siteHost).heal},
		{
			"whose whole machine is paused",
			func(one *siteHost) { one.must(one.h.Pause(one.t.Context())) },
			func(one *siteHost) { one.must(one.h.Resume(one.t.Context())) },
		},
		{
			"whose plugin is stopped",
			func(one *siteHost) { one.sh("pkill -STOP -f '[d]ocker-volume-efs.* serve'") },
			func(one *siteHost) { one.sh("pkill -CONT -f '[d]ocker-volume-efs.* serve'") },
		},
		{
			"that is cut off and whose disk stalls, for longer than the network is away",
			func(one *siteHost) {
				one.partition()
				one.must(one.h.StallDisk(one.t.Context()))
				one.t.Cleanup(func() { _ = one.h.ReleaseDisk(context.Background()) })
			},
			func(one *siteHost) {
				inAnyCase := time.AfterFunc(leaseTerm, func() { _ = one.h.ReleaseDisk(context.Background()) }) // what heals may wait for it
				defer inAnyCase.Stop()
				one.heal()
				time.Sleep(leaseTerm / 3)
				one.must(one.h.ReleaseDisk(one.t.Context()))
			},
		},
	} {
		e.in(row.name, func() {
			e.writes(old)
			e.open(old)
			row.leave(old)
			e.takeover(next, leaseTerm+2*time.Second+slowHost)
			row.comeBack(old)
			e.getErrors(old, next)
			e.writes(next)
			wrote = append(wrote, next.h.Name())
			e.wrote(wrote...)
			old.sh("docker rm -f writer open >/dev/null")
			old, next = next, old
		})
	}
	old.sh("docker rm -f writer >/dev/null")
}

// TestExclusiveVolumeIsTakenBack has a host mount it again whose containers of before are still there.
func TestExclusiveVolumeIsTakenBack(t *testing.T) {
	e := newExclusive(t, "back")
	a, b := e.hosts[0], e.hosts[1]
	a.sh(e.start(a))
	e.open(a)
	e.writes(a)
	a.partition()
	e.takeover(b, leaseTerm+2*time.Second+slowHost)
	a.heal()
	e.getErrors(a, b)
	b.sh("docker rm -f writer >/dev/null")
	e.takeoverBy(a, strings.Replace(e.start(a), "--name writer", "--name again", 1), slowHost)
	e.wrote("host-a", "host-b", "host-a")
	if got := a.sh("docker volume inspect -f '{{.Status.lease}} {{.Status.trouble}}' back"); got != "this host's <no value>" {
		t.Errorf("Status says %q", got)
	}
	a.sh("pkill -KILL -f '[d]ocker-volume-efs.* serve'") // its successor has relays of both leases to serve
	e.writes(a)
	if said, err := a.h.Run(t.Context(), "timeout 20 docker exec writer touch /data/file"); err == nil {
		t.Errorf("the container of before goes on: %s", said)
	}
	a.sh("docker restart -t 0 writer >/dev/null") // that one has the volume as well then
	e.eventually(30*time.Second, "the container of before writes", func() bool {
		return a.sh("docker exec writer sh -c 'echo it writes >/data/note' && docker exec again cat /data/note") == "it writes"
	})
	a.sh("docker rm -f writer open again >/dev/null")
}

// TestExclusiveVolumeIsLostWhileNobodyCountsIt has it taken from a host whose plugin was disabled under the containers: what
// they have is mounted nowhere else any more. It takes Linux 6.5 to end that.
func TestExclusiveVolumeIsLostWhileNobodyCountsIt(t *testing.T) {
	e := newExclusive(t, "uncounted")
	a, b := e.hosts[0], e.hosts[1]
	a.sh(e.start(a))
	e.open(a)
	e.writes(a)
	a.sh("docker plugin disable -f " + siteDriver + " && docker plugin enable " + siteDriver)
	e.writes(a)
	a.partition()
	e.takeover(b, leaseTerm+2*time.Second+slowHost)
	a.heal()
	e.getErrors(a, b)
	e.wrote("host-a", "host-b")
	a.sh("docker rm -f writer open >/dev/null")
	e.eventually(30*time.Second, "nobody listens for what was mounted any more", func() bool { return a.sh("ss -tnlH src 127.0.0.2") == "" })
	b.sh("docker rm -f writer >/dev/null")
}

func (s *siteHost) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// holder is the host that has the lease, as the file system has it.
func (e *exclusive) holder() string {
	e.t.Helper()
	entries, err := filepath.Glob(filepath.Join(e.lab.Server.Dir("/export"), ".docker-volume-efs/leases", e.volume+"@*/*"))
	if err != nil || len(entries) != 1 {
		e.t.Fatalf("its lease: %v, %v", entries, err)
	}
	fields := strings.Split(filepath.Base(entries[0]), "_")
	return fields[len(fields)-1]
}

// TestExclusiveVolumeKeepsItsHost has what must not cost a host its lease, though another one asks for it all the
// time.
func TestExclusiveVolumeKeepsItsHost(t *testing.T) {
	e := newExclusive(t, "keeps")
	a := e.hosts[0]
	a.sh(e.start(a))
	e.writes(a)
	stop := e.contend(e.hosts[1])
	for _, row := range []struct {
		name string
		do   func()
	}{
		{"the plugin is killed", func() { a.sh("pkill -KILL -f '[d]ocker-volume-efs.* serve'") }},
		{"a partition shorter than the term", func() {
			a.partition()
			time.Sleep(leaseTerm / 2)
			a.heal()
		}},
		{"the plugin is disabled and enabled", func() { a.sh("docker plugin disable -f " + siteDriver + " && docker plugin enable " + siteDriver) }},
	} {
		e.in(row.name, func() {
			e.writes(a)
			row.do()
			e.writes(a)
			e.wrote("host-a")
			if got := e.holder(); got != "host-a" {
				e.t.Errorf("%s has the lease", got)
			}
		})
	}
	stop()
	// Nothing is counted any more after the plugin was disabled: the kernel's client tells.
	a.sh("docker rm -f writer >/dev/null")
	e.takeover(e.hosts[1], slowHost)
	e.hosts[1].sh("docker rm -f writer >/dev/null")
}

// TestExclusiveVolumeOfAnEngineThatWasKilled has an Engine killed and started: it ends its containers
// and tells the plugin nothing. That the kernel has no NFS client of the volume any more frees it.
func TestExclusiveVolumeOfAnEngineThatWasKilled(t *testing.T) {
	e := newExclusive(t, "engine")
	a, b := e.hosts[0], e.hosts[1]
	a.sh(e.start(a))
	e.writes(a)
	a.sh("stop-docker KILL; start-docker")
	a.engine.CloseIdleConnections()
	begun := time.Now()
	e.eventually(3*time.Minute, "the writer runs on host-b", func() bool {
		_, err := b.h.Run(t.Context(), "docker rm -f writer >/dev/null; "+e.start(b))
		return err == nil
	})
	took := time.Since(begun)
	t.Logf("the writer runs on host-b after %.1f s", took.Seconds())
	if took > time.Minute {
		t.Errorf("that took longer than a minute")
	}
	e.writes(b)
	e.wrote("host-a", "host-b")
	a.sh("docker rm -f writer >/dev/null")
	b.sh("docker rm -f writer >/dev/null")
}

func TestExclusiveVolumeIsPreempted(t *testing.T) {
	e := newExclusive(t, "preempted")
	a, b := e.hosts[0], e.hosts[1]
	a.sh(e.start(a))
	e.writes(a)
	const preempt = "preempt preempted"
	if said := a.fails(10*time.Second, a.command(preempt)); !strings.Contains(said, "this host itself has it") {
		t.Errorf("the holder is told %q", said)
	}
	a.partition()
	if said := b.sh(b.command(preempt)); said != "taken from host host-a" {
		t.Errorf("the command says %q", said)
	}
	e.takeover(b, slowHost)
	e.eventually(time.Minute, "Status on the host that is cut off says that nothing is written", func() bool {
		return strings.Contains(a.sh("docker volume inspect -f '{{.Status.trouble}}' preempted"), "its lease could not be renewed in time: nothing is written until it is")
	})
	a.heal()
	e.eventually(time.Minute, "the old writer gets an error", func() bool {
		return strings.Contains(a.sh("docker logs writer 2>&1"), "cannot write")
	})
	e.wrote("host-a", "host-b")
	a.sh("docker rm -f writer >/dev/null")
	b.sh("docker rm -f writer >/dev/null")
}
