//go:build integration

package integration

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestServerFaults(t *testing.T) {
	alone(t)
	l := hosts(t)
	h, s := l.Host("host-a"), l.Server
	t.Cleanup(func() {
		if err := s.Heal(context.Background()); err != nil {
			t.Error(err)
		}
		if err := s.Start(context.Background()); err != nil {
			t.Error(err)
		}
	})
	expect := func(when, a, b, c string) {
		t.Helper()
		for zone, want := range map[string]string{"a": a, "b": b, "c": c} {
			if got := reach(t, h, s.Addr(zone)); got != want {
				t.Errorf("%s: zone %s is %s, want %s", when, zone, got, want)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	expect("at first", "open", "open", "open")
	must(s.Drop(t.Context(), s.Addr("b")))
	must(s.Reject(t.Context(), s.Addr("c")))
	expect("after Drop of b and Reject of c", "open", "silent", "refused")
	must(s.Heal(t.Context()))
	expect("after Heal", "open", "open", "open")
	s.Stop()
	expect("after Stop", "refused", "refused", "refused")
	must(s.Start(t.Context()))
	expect("after Start", "open", "open", "open")
}

func TestRestartedServerKeepsItsClients(t *testing.T) {
	alone(t)
	l := hosts(t)
	h, s := l.Host("host-a"), l.Server
	mountNFS(t, h, "10.77.0.11:/export")
	run(t, h, "(flock 9; for i in $(seq 600); do echo $i >&9; sleep 0.05; done) 9>/mnt/counter >/dev/null 2>&1 & echo $! >/run/counter.pid")
	t.Cleanup(func() { _, _ = h.Run(context.Background(), "kill $(cat /run/counter.pid); rm -f /mnt/counter") })
	s.Stop()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := run(t, h, "stat -c %s /mnt/counter")
	time.Sleep(time.Second)
	if after := run(t, h, "kill -0 $(cat /run/counter.pid) && sync -f /mnt/counter && stat -c %s /mnt/counter"); after == before {
		t.Errorf("the writer stands still at %s bytes", after)
	}
}

func TestFrozenServerAnswersAfterItsThaw(t *testing.T) {
	alone(t)
	l := hosts(t)
	h, s := l.Host("host-a"), l.Server
	mountNFS(t, h, "10.77.0.11:/export")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Thaw() })
	if got := reach(t, h, s.Addr("a")); got != "open" {
		t.Errorf("a frozen server's address is %s", got)
	}
	run(t, h, "(touch /mnt/late; echo done >/run/late) >/dev/null 2>&1 &")
	time.Sleep(2 * time.Second)
	if _, err := h.Run(t.Context(), "test -e /run/late"); err == nil {
		t.Error("a frozen server answered")
	}
	if err := s.Thaw(); err != nil {
		t.Fatal(err)
	}
	run(t, h, "for i in $(seq 100); do test -e /run/late && break; sleep 0.1; done; rm /run/late /mnt/late")
}

func TestSecondServerIsIndependent(t *testing.T) {
	alone(t)
	l := hosts(t)
	h := l.Host("host-a")
	second, err := l.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mountNFS(t, h, "nfs-second:/export")
	run(t, h, "touch /mnt/second; mkdir -p /media/first; mount -t nfs4 nfs:/export /media/first")
	if got := run(t, h, "ls /media/first; umount /media/first"); strings.Contains(got, "second") {
		t.Errorf("the first server has the second's files: %s", got)
	}
	second.Stop()
	if got := reach(t, h, second.Addr("a")); got != "refused" {
		t.Errorf("the stopped second server is %s", got)
	}
	if got := reach(t, h, l.Server.Addr("a")); got != "open" {
		t.Errorf("the first server is %s", got)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, h, "rm /mnt/second")
}
