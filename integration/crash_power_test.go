//go:build integration

package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestCrashPowerOff takes the power from both hosts at once, one in the middle of
// Create, the other in the middle of Mount.
func TestCrashPowerOff(t *testing.T) {
	alone(t)
	l := hosts(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	a, b := makeBare(t, l, "host-a"), makeBare(t, l, "host-b")
	both := []*barePlugin{a, b}
	for _, p := range both {
		// The program itself is not what is tested.
		p.sh("sync -f /root")
		p.start()
		p.mustCreate("web", "uid=7")
		mountpoint := p.mustMount("web", "1")
		p.sh("echo synced >" + mountpoint + "/file && sync " + mountpoint + "/file")
	}
	b.mustCreate("other")

	created := 0
	pauses := []time.Duration{time.Duration(random.IntN(1000)) * time.Millisecond, time.Duration(random.IntN(1000)) * time.Millisecond}
	together(
		func() {
			for ; a.create(fmt.Sprint("new", created)) == nil; created++ {
			}
		},
		func() {
			for n := 0; ; n++ {
				id := fmt.Sprint("on-its-way", n)
				if _, err := b.mount("other", id); err != nil {
					return
				}
				if err := b.unmount("other", id); err != nil {
					return
				}
			}
		},
		func() { time.Sleep(pauses[0]); a.host.PowerOff() },
		func() { time.Sleep(pauses[1]); b.host.PowerOff() },
	)
	// After the boot the server is dead: the hosts have to know by themselves what
	// they have told Docker.
	if err := l.Server.Freeze(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Server.Thaw() })
	together(
		func() { a.powerOn() },
		func() { b.powerOn() },
	)
	if t.Failed() {
		return
	}
	t.Logf("%d volumes were created until the power went", created)
	for n := range created {
		a.mustGet(fmt.Sprint("new", n))
	}
	for _, p := range both {
		if v := p.mustGet("web"); v.Status.Options["uid"] != "7" || v.Status.Mounted || len(v.Status.Mounts) > 0 {
			t.Errorf("%s tells of the volume after the boot: %+v", p.host.Name(), v.Status)
		}
		if s := p.status(); len(s.Mounted) > 0 {
			t.Errorf("%s has mounts after the boot: %v", p.host.Name(), s.Mounted)
		}
		if log := p.sh("sed '1,/power/d' " + p.dir + "/log"); strings.Contains(log, "damaged") {
			t.Errorf("%s: a power cut counts as damage:\n%s", p.host.Name(), log)
		}
	}
	if err := l.Server.Thaw(); err != nil {
		t.Fatal(err)
	}
	for _, p := range both {
		// The server may still wait for what the host had locked before.
		var mountpoint string
		err := bareWait(t, 30*time.Second, func() (err error) { mountpoint, err = p.mount("web", "2"); return err })
		if err != nil {
			t.Fatal(err)
		}
		if got := p.sh("cat " + mountpoint + "/file"); got != "synced" {
			t.Errorf("%s: the volume holds %q", p.host.Name(), got)
		}
		p.mustUnmount("web", "2")
		p.mustUnmount("web", "1") // Docker may say so of a container of before
	}
	b.holds("other", "")
	a.mustCreate(fmt.Sprint("new", created)) // the one on its way
	a.holds(fmt.Sprint("new", created), "")
	bareConsistent(t, a.onServer(""))
	a.leavesNothing()
	b.leavesNothing()
}

// powerOn boots the host and starts the plugin, as its Engine would.
func (p *barePlugin) powerOn() {
	p.hangUp()
	start := time.Now()
	if err := p.host.PowerOn(p.t.Context()); err != nil {
		p.t.Error(err)
		return
	}
	p.t.Logf("%s booted in %v", p.host.Name(), time.Since(start).Round(time.Second))
	if _, err := p.host.Run(p.t.Context(), "echo power >>"+p.dir+"/log\n"+p.mountLine()+p.startLine()); err != nil {
		p.t.Error(err)
		return
	}
	p.awaitAnswer()
}
