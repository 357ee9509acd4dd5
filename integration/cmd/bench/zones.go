package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	zonesPlugin = "zones"
	writer      = "build/lab/writer"
	// stallLimit is how long a writer is watched. HAProxy as people configure it notices a
	// dead server after 60 + 2*15 s.
	stallLimit = 14 * time.Second
	peerLimit  = 120 * time.Second
	stallsEach = 3
	// haproxyRest is how long the kernel has to come back to HAProxy after its restart.
	haproxyRest = 8 * time.Second
)

// zones is a file system with a mount target in each of three zones on one host: a volume
// for each way to it, and HAProxy in front of it.
type zones struct{ *bench }

// stall is one row of the table of stalls.
type stall struct {
	what    string
	target  float64 // seconds; 0: none
	longest map[string][]float64
}

// The ways to the file system.
const (
	wayRelay   = "relay"
	wayDirect  = "direct"
	waySteered = "direct, steered"
	wayHAProxy = "HAProxy"
)

// prepareZones installs a plugin, HAProxy and fio.
func (b *bench) prepareZones() error {
	server, names := b.lab.Server, []string{"a", "b", "c"}
	var targets []string
	for _, zone := range names {
		targets = append(targets, zone+"="+server.Addr(zone).String())
	}
	if err := b.host.Upload(b.ctx, writer, "/root/writer", 0o755); err != nil {
		return err
	}
	if err := b.bringPeers(); err != nil {
		return err
	}
	if err := b.createPlugin(zonesPlugin); err != nil {
		return err
	}
	_, err := b.host.Run(b.ctx, fmt.Sprintf(`set -e
docker plugin set %[1]s EFS_FILESYSTEM=nfs://%[2]s/export EFS_ROOT=/zones EFS_TARGETS=%[3]s EFS_ZONE=a
docker plugin enable %[1]s
docker volume create -d %[1]s -o via=relay relay
docker volume create -d %[1]s -o via=direct direct`, zonesPlugin, server.Addr("a"), strings.Join(targets, ",")))
	if err != nil {
		return err
	}
	b.haproxy, err = b.newHAProxy(names)
	return err
}

// createPlugin creates a further plugin. Its content differs by a file: the Engine refuses to
// create a plugin whose root file system another one has ("already exists").
func (b *bench) createPlugin(name string) error {
	_, err := b.host.Run(b.ctx, fmt.Sprintf("rm -rf /root/%[1]s && cp -a /root/plugin /root/%[1]s && echo %[1]s >/root/%[1]s/rootfs/build && docker plugin create %[1]s /root/%[1]s", name))
	return err
}

// bringPeers makes the image "peers" of the tree with HAProxy, stunnel and fio, if it is not there.
func (b *bench) bringPeers() error {
	if b.peersThere {
		return nil
	}
	archive, err := exec.CommandContext(b.ctx, "tar", "-C", b.peers, "--exclude=./dev/*", "--exclude=./usr/share/*", "-cf", "-", ".").Output()
	if err != nil {
		return fmt.Errorf("pack the peers' tree: %w", err)
	}
	if err := b.host.UploadBytes(b.ctx, archive, "/root/peers.tar", 0o600); err != nil {
		return err
	}
	_, err = b.host.Run(b.ctx, "docker import - peers </root/peers.tar && rm /root/peers.tar")
	b.peersThere = err == nil
	return err
}

// write has a writer on one way, with a call in the midst, and returns its longest stall.
func (z zones) write(way string, lasts time.Duration, happen func() error) (seconds float64, err error) {
	line := "docker run --rm --network none -v %s:/data -v /root/writer:/writer:ro --entrypoint /writer busybox -for %s /data/file"
	dir := way
	if way == wayHAProxy {
		line, dir = "/root/writer -for %[2]s %[1]s", haproxyMount+"/file"
		if err := z.haproxy.restart(); err != nil {
			return 0, err
		}
		time.Sleep(haproxyRest)
	}
	ctx, cancel := context.WithTimeout(z.ctx, lasts+time.Minute)
	defer cancel()
	var out, said bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- z.host.Stream(ctx, fmt.Sprintf(line, dir, lasts), &out, &said) }()
	time.Sleep(4 * time.Second)
	if err := happen(); err != nil {
		return 0, err
	}
	runErr := <-done
	if ctx.Err() != nil {
		return (lasts + time.Minute).Seconds(), z.ctx.Err()
	}
	var report struct {
		Longest float64 `json:"longest_seconds"`
		Error   string  `json:"error"`
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return 0, fmt.Errorf("the writer says %q, %q: %w", out.String(), said.String(), errors.Join(err, runErr))
	}
	if report.Error != "" {
		return 0, errors.New(report.Error)
	}
	return report.Longest, nil
}

// zoneOf asks where a volume's bytes go; HAProxy always begins in its first one.
func (z zones) zoneOf(way string) (string, error) {
	if way == wayHAProxy {
		return "a", nil
	}
	out, err := z.host.Run(z.ctx, "docker volume inspect -f '{{.Status.zone}}' "+way)
	return strings.TrimSpace(out), err
}

// stalls measures how long a writer stands still.
func (b *bench) stalls() error {
	z := zones{b}
	server := b.lab.Server
	lose := func(fault func(context.Context, netip.Addr) error) func(string) error {
		return func(way string) error {
			zone, err := z.zoneOf(way)
			if err != nil {
				return err
			}
			return fault(b.ctx, server.Addr(zone))
		}
	}
	run := func(line string) func(string) error {
		return func(string) error {
			_, err := b.host.Run(b.ctx, line)
			return err
		}
	}
	for _, row := range []struct {
		what   string
		target float64
		ways   []string
		happen func(way string) error
	}{
		{"mount target refuses and resets", 0.3, []string{wayRelay, wayDirect, wayHAProxy}, lose(server.Reject)},
		{"mount target swallows packets", 5, []string{wayRelay, wayDirect, wayHAProxy}, lose(server.Drop)},
		{"the plugin's worker, or HAProxy, is killed", 0.5, []string{wayRelay, wayHAProxy}, func(way string) error {
			if way == wayHAProxy {
				return b.haproxy.restart()
			}
			return run("pkill -9 -f '^docker-volume-efs-worker serve'")(way)
		}},
		{"the whole plugin is killed, Docker starts it again", 5, []string{wayRelay}, run("pkill -9 -f '^/docker-volume-efs serve'")},
		{"docker-volume-efs drain of the zone", 0, []string{wayRelay, wayDirect}, z.drain},
		{"nothing happens", 0, []string{wayRelay, wayDirect, wayHAProxy}, func(string) error { return nil }},
	} {
		s := stall{what: row.what, target: row.target, longest: map[string][]float64{}}
		for _, way := range row.ways {
			rounds, lasts := stallsEach, stallLimit
			if way == wayHAProxy {
				rounds = 1
				if row.target > 0 {
					lasts = peerLimit
				}
			}
			for range rounds {
				longest, err := z.write(way, lasts, func() error { return row.happen(way) })
				if err := errors.Join(err, server.Heal(b.ctx)); err != nil {
					return fmt.Errorf("%s, %s: %w", row.what, way, err)
				}
				s.longest[way] = append(s.longest[way], longest)
			}
			slices.Sort(s.longest[way])
		}
		b.results.stalls = append(b.results.stalls, s)
	}
	return nil
}

func (z zones) drain(way string) error {
	zone, err := z.zoneOf(way)
	if err != nil {
		return err
	}
	const line = `d=/var/lib/docker/plugins/$(docker plugin inspect -f '{{.Id}}' %[1]s); $d/rootfs/docker-volume-efs drain --data $d/propagated-mount %[2]s && ` +
		`sleep 3 && $d/rootfs/docker-volume-efs drain --undo --data $d/propagated-mount %[2]s`
	_, err = z.host.Run(z.ctx, fmt.Sprintf(line, zonesPlugin, zone))
	return err
}
