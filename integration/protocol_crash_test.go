//go:build integration

package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Without live-restore a dockerd that is killed takes its containers with it and
// sends no Unmount (rule 6: the mounts went with the plugin, so the counts are void).
func TestProtocolRule1And6DockerdKilled(t *testing.T) {
	s := oneHost(t)
	s.volume("crashed", "uid=999")
	s.writer("crashed")
	s.sh("stop-docker KILL; start-docker")
	if got := s.inspect("crashed").Options["uid"]; got != "999" {
		t.Errorf("the option is %q", got)
	}
	if !s.lists("crashed") {
		t.Error("ls does not show the volume")
	}
	if counts := s.counts("crashed"); len(counts) > 0 {
		t.Errorf("the plugin counts %v", counts)
	}
	s.sh("docker start crashed")
	s.writes("crashed", 3)
	s.onlyID("crashed")
}

// A broken connection makes the Engine repeat the call with an empty body. An
// answer to that, of whatever kind, would cost the volume its labels.
func TestProtocolRule3RepeatedCallsForgetNothing(t *testing.T) {
	s := oneHost(t)
	const volumes = 8 // the Engine asks for one volume one thing at a time
	var killed atomic.Bool
	var asking sync.WaitGroup
	for i := range volumes {
		name := fmt.Sprintf("repeated-%d", i)
		s.volume(name)
		asking.Go(func() {
			for !killed.Load() {
				if _, _, err := request(t.Context(), s.engine, http.MethodGet, "/volumes/"+name, ""); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	mark := s.mark()
	// Calls of several sorts are under way when the plugin is killed.
	s.sh("plugin=$(" + pluginPID + "); kill -STOP $plugin; sleep 0.5; kill -KILL $plugin")
	killed.Store(true)
	asking.Wait()
	repeated := s.sh("tail -c +" + mark + " /run/dockerd.log | grep -o 'call=[A-Z][a-z]* .*dropped: [a-z ]*' || true")
	t.Log("repeated and dropped: ", repeated)
	if repeated == "" {
		t.Error("the Engine has repeated nothing: this test has tested nothing")
	}
	for _, name := range s.volumes {
		s.inspect(name)
	}
}

func TestProtocolRule4CopyLeavesTheVolumeMounted(t *testing.T) {
	s := oneHost(t)
	s.volume("copied")
	s.writer("copied")
	id, kernel := s.onlyID("copied"), s.kernelMount("copied")
	s.sh("docker cp copied:/data/log /tmp/log && docker cp /tmp/log copied:/data/back")
	if got := s.onlyID("copied"); got != id {
		t.Errorf("after docker cp the mount is %s's, was %s's", got, id)
	}
	// Also after the warm time nothing was detached behind the container's back.
	time.Sleep(siteWarm)
	if got := s.kernelMount("copied"); got != kernel || got == "" {
		t.Errorf("the kernel's mount was %q, is %q", kernel, got)
	}
	s.writes("copied", 3)
	s.sh("docker exec copied test -s /data/back")
}

func TestProtocolRule6PluginKilledWithAContainerRunning(t *testing.T) {
	s := oneHost(t)
	s.volume("killed")
	s.writer("killed")
	id, kernel := s.onlyID("killed"), s.kernelMount("killed")
	s.killPlugin()
	s.writes("killed", 5)
	if got := s.onlyID("killed"); got != id {
		t.Errorf("the mount is counted for %s, was for %s", got, id)
	}
	s.try("killed", "test -s /data/log")
	if got := s.kernelMount("killed"); got != kernel {
		t.Errorf("the kernel's mount was %q, is %q", kernel, got)
	}
	if got := s.onlyID("killed"); got != id {
		t.Errorf("after another container the mount is counted for %s, was for %s", got, id)
	}
	s.sh("docker stop -t 0 killed")
	if counts := s.counts("killed"); len(counts) > 0 {
		t.Errorf("after the stop the plugin counts %v", counts)
	}
	s.detached("killed")
}

// With live-restore containers and plugin go on without dockerd, and nobody reads
// what the plugin logs.
func TestProtocolRule6And9DockerdKilledWithLiveRestore(t *testing.T) {
	s := oneHost(t)
	set := func(ctx context.Context, json string) error {
		_, err := s.h.Run(ctx, "echo '"+json+"' >/etc/docker/daemon.json && kill -HUP $(cat /run/docker.pid)")
		return err
	}
	t.Cleanup(func() {
		if err := set(context.Background(), `{"live-restore": false}`); err != nil {
			t.Error(err)
		}
	})
	if err := set(t.Context(), `{"live-restore": true}`); err != nil {
		t.Fatal(err)
	}
	s.eventually(moment, "live-restore is on", func() bool { return s.sh("docker info -f '{{.LiveRestoreEnabled}}'") == "true" })
	s.volume("restored")
	s.writer("restored")
	id := s.onlyID("restored")
	s.sh("stop-docker KILL")
	s.writes("restored", 5)

	// 1,000 lines of 400 bytes: the pipe to dockerd takes some 180 kB.
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			client := s.plugin()
			defer client.CloseIdleConnections()
			for range 125 {
				if _, err := ask(ctx, client, "Unmount", `{"Name":"restored","ID":"`+strings.Repeat("unknown", 30)+`"}`); err != nil {
					t.Errorf("without dockerd: %v", err)
					return
				}
			}
		})
	}
	asking.Wait()

	s.sh("start-docker")
	if got := s.onlyID("restored"); got != id {
		t.Errorf("the mount is counted for %s, was for %s", got, id)
	}
	s.inspect("restored")
	s.writes("restored", 3)
	s.sh("docker exec restored test -s /data/log && docker stop -t 0 restored")
	if counts := s.counts("restored"); len(counts) > 0 {
		t.Errorf("after the stop the plugin counts %v", counts)
	}
}

// What a container has mounted stays with it when the plugin is disabled.
func TestProtocolRule16ContainersOutliveDisable(t *testing.T) {
	s := oneHost(t)
	s.volume("outlived")
	s.writer("outlived")
	s.sh("docker plugin disable -f efs")
	s.writes("outlived", 10)
	if got := s.kernelMount("outlived"); got != "" {
		t.Errorf("while the plugin is disabled the host has mount %s", got)
	}
	s.sh("docker plugin enable efs")
	if !s.lists("outlived") {
		t.Error("after enable ls does not show the volume")
	}
	// A second mount, independent of the first one.
	s.try("outlived", "test -s /data/log")
	s.writes("outlived", 3)
	// An Unmount of what the plugin does not count any more, then as usual.
	s.sh("docker stop -t 0 outlived && docker start outlived")
	s.writes("outlived", 3)
	s.onlyID("outlived")
}
