//go:build integration

package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// stopServer stops the NFS server until the test's end, or until start is called.
func stopServer(t *testing.T, l *lab.Lab) (start func()) {
	t.Helper()
	l.Server.Stop()
	start = func() {
		if err := l.Server.Start(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(start)
	return start
}

// With the server away the Engine's volumes are what they were: after a restart
// of dockerd, and after docker plugin disable and enable. docker plugin upgrade does
// the same to the plugin's directories, but needs a registry: it keeps the propagated
// mount and replaces the root file system.
func TestProtocolRule1And10VolumesAreKnownWithoutTheServer(t *testing.T) {
	s, _ := bothHosts(t)
	s.volume("survivor", "uid=999")
	if got := s.sh("ls " + siteData + "/state"); !strings.Contains(got, "volumes") || !strings.Contains(got, "mounts") {
		t.Errorf("the propagated mount has the state %q", got)
	}
	known := func(when string) {
		t.Helper()
		t.Log(when)
		if v := s.inspect("survivor"); v.Options["uid"] != "999" || v.Status.Options["uid"] != "999" || v.Status.Path != "/survivor" {
			t.Errorf("the volume is %+v", v)
		}
		if !s.lists("survivor") {
			t.Error("ls does not show the volume")
		}
	}

	s.sh("docker plugin disable -f efs")
	// The Engine and runc put files of their own under /dev and /etc.
	if got := s.sh("cd /var/lib/docker/plugins/" + s.id + "/rootfs && find . -type f -not -path './dev/*' -not -path './etc/*' -not -name .dockerenv"); got != "./docker-volume-efs" {
		t.Errorf("the plugin's root file system has the files %q", got)
	}
	startServer := stopServer(t, s.lab)
	// Rule 8: a dead server does not keep the plugin from being enabled.
	start := time.Now()
	s.sh("docker plugin enable efs")
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("enable took %v", took)
	}
	known("after enable")

	s.sh("stop-docker; start-docker")
	known("after a restart of dockerd")
	if got := s.inspect("survivor").Status.Trouble; len(got) != 1 || !strings.Contains(got[0], "refused") {
		t.Errorf("inspect shows the trouble %q", got)
	}
	text := s.fails(30*time.Second, tryLine("survivor", "true"))
	if !strings.Contains(text, "check that the NFS server is running") {
		t.Errorf("run says %s", text)
	}
	startServer()
	s.works("survivor")
	known("with the server back")
}

// The Engine's own limit (docker plugin enable --timeout) ends a Mount that a
// frozen server holds up; no Unmount follows. Then it tries again with an empty
// body for a quarter of a minute (rule 3). Meanwhile, every other call is answered in
// time too, and what needs no server at once.
func TestProtocolRule2And5FrozenServer(t *testing.T) {
	s, _ := bothHosts(t)
	s.volume("frozen")
	s.volume("frozen-too")
	s.sh("docker plugin disable -f efs && docker plugin enable --timeout 3 efs")
	t.Cleanup(func() {
		if _, err := s.h.Run(context.Background(), "docker plugin disable -f efs && docker plugin enable efs"); err != nil {
			t.Error(err)
		}
	})
	s.sh("docker run -d --name frozen --network none -v frozen:/data busybox sleep 100000")
	id, mark := s.onlyID("frozen"), s.mark()
	if err := s.lab.Server.Freeze(); err != nil {
		t.Fatal(err)
	}
	thaw := func() {
		if err := s.lab.Server.Thaw(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)

	var asking, running sync.WaitGroup
	running.Go(func() {
		var exit *lab.ExitError
		if _, err := s.h.Run(t.Context(), tryLine("frozen-too", "true")); !errors.As(err, &exit) || !strings.Contains(exit.Stderr, "VolumeDriver.Mount") {
			t.Errorf("docker run: %v, want a Mount that fails", err)
		}
	})
	for _, c := range []struct {
		call, body string
		limit      time.Duration
		works      bool
	}{
		{"Get", `{"Name":"frozen"}`, quick, true},
		{"Path", `{"Name":"frozen"}`, quick, true},
		{"List", `{}`, quick, true},
		{"Capabilities", `{}`, quick, true},
		{"Get", `{"Name":"unheard-of"}`, quick, false},
		{"Unmount", `{"Name":"frozen","ID":"` + id + `"}`, quick, true},
		{"Create", `{"Name":"frozen-later"}`, patient, false},
		{"Mount", `{"Name":"frozen","ID":"m1"}`, patient, false},
		{"Remove", `{"Name":"frozen-later"}`, patient, false},
	} {
		asking.Go(func() {
			start := time.Now()
			answer, err := s.call(t.Context(), c.call, c.body)
			if took := time.Since(start); took > c.limit {
				t.Errorf("%s %s took %v, want %v", c.call, c.body, took, c.limit)
			}
			if (err == nil) != c.works {
				t.Errorf("%s %s: got %s, %v", c.call, c.body, answer, err)
			}
		})
	}
	// The plugin hears it at once, not when the server answers.
	s.eventually(moment, "the plugin ends the Mount that the Engine gave up", func() bool {
		calls := s.calls(mark, "frozen-too")
		return len(calls) > 0 && calls[0].call == "Mount" && strings.Contains(calls[0].outcome, "gave up")
	})
	asking.Wait()
	thaw()
	running.Wait()
	if counts := s.counts("frozen-too"); len(counts) > 0 {
		t.Errorf("after a Mount given up the plugin counts %v", counts)
	}
	s.sh("docker plugin disable -f efs && docker plugin enable efs")
	s.works("frozen-too")
	// The Engine's own Unmount finds nothing to take away, which is no error.
	s.sh("docker rm -f frozen")
	s.works("frozen")
}

// A plugin whose server is silent is disabled within seconds, if no container uses its volumes, and if the kernel is not older
// than Linux 6.5 (sunrpc.ErrNoShutdown; so not one of the protocol tests, which older ones see as well): to unmount would take the
// kernel minutes, and Docker with it.
func TestPluginOfASilentServerIsDisabledSoon(t *testing.T) {
	s, _ := bothHosts(t)
	for _, via := range []string{"direct", "relay"} {
		s.volume("silent-"+via, "via="+via)
		s.works("silent-" + via)
	}
	// What a container uses is not shut down: that cannot be undone.
	s.volume("silent-used", "access=exclusive")
	s.sh("docker run -d --name silent --network none -v silent-used:/data busybox sleep 100000")
	if err := s.lab.Server.Freeze(); err != nil {
		t.Fatal(err)
	}
	thaw := func() {
		if err := s.lab.Server.Thaw(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(thaw)
	for _, what := range []string{"disable -f", "enable"} {
		start := time.Now()
		s.sh("timeout 300 docker plugin " + what + " efs")
		took := time.Since(start)
		t.Logf("%s took %.1f s", what, took.Seconds())
		if took > moment {
			t.Errorf("%s took %v", what, took)
		}
	}
	thaw()
	s.sh("timeout 100 docker exec silent sh -c 'echo on >/data/file && sync && cat /data/file' && docker rm -f silent")
	for _, via := range []string{"direct", "relay"} {
		s.works("silent-" + via)
	}
}
