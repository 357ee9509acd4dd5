//go:build integration

package integration

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestVolumeInUseElsewhere has an operator on one host look for, remove and bring back what a container on another
// uses, with Docker's commands and the plugin's own.
func TestVolumeInUseElsewhere(t *testing.T) {
	s := newSite(t)
	b := s.hosts[1]
	s.sh(s.a, "docker volume create -d efs inuse && docker run -d --name user --network none -v inuse:/data busybox sh -c 'echo rows >/data/file; sleep 1h'")
	said := s.sh(s.b, "docker volume rm inuse 2>&1 || true")
	if !strings.Contains(said, "host-a uses it since") || !strings.Contains(said, "stop its containers there first") {
		t.Errorf("Docker says %q", said)
	}
	s.eventually(30*time.Second, "both hosts say who uses it", func() bool {
		const users = "docker volume inspect -f '{{.Status.used_by}}' inuse"
		return strings.Contains(s.sh(s.a, users), "host-a since") && strings.Contains(s.sh(s.b, users), "host-a since")
	})
	b.showsUse("inuse", s.a.Name())
	s.sh(s.a, "docker exec user grep rows /data/file")
	s.sh(s.a, "docker rm -f user")
	if said := s.sh(s.b, "docker volume rm inuse 2>&1 || true"); strings.TrimSpace(said) != "inuse" {
		t.Errorf("right after the container's end Docker says %q", said)
	}
	b.bringsBack("inuse", "rows")
}

// showsUse has status and volumes tell who uses a volume, that is at its default path and holds one file.
func (s *siteHost) showsUse(volume, user string) {
	s.t.Helper()
	row := regexp.MustCompile(`(?m)^ +` + volume + ` +\S+ +` + user + `$`)
	s.eventually(time.Minute, "status says that all is well, and who uses "+volume, func() bool {
		said, err := s.h.Run(s.t.Context(), s.command("status"))
		return err == nil && row.MatchString(said)
	})
	said := s.sh(s.command("volumes " + volume))
	if !regexp.MustCompile(`(?m)^` + volume + ` +\S+ +/` + volume + ` +trash +` + user + ` *$`).MatchString(said) {
		s.t.Errorf("volumes says %s", said)
	}
	var sizes []struct {
		Size struct {
			Bytes, Files int
			Done         bool
		}
	}
	said = s.sh(s.command("volumes --size --json " + volume))
	s.must(json.Unmarshal([]byte(said), &sizes))
	if len(sizes) != 1 || !sizes[0].Size.Done || sizes[0].Size.Files != 1 || sizes[0].Size.Bytes == 0 {
		s.t.Errorf("volumes --size says %s", said)
	}
}

// bringsBack restores a removed volume, whose file has that text, and then deletes it for good. By its entry: whatever
// other tests have removed is in the trash too, and deleting it all would keep the hosts at work for minutes.
func (s *siteHost) bringsBack(volume, text string) {
	s.t.Helper()
	inTrash := regexp.MustCompile(`(?m)^\S+-` + volume + ` +` + volume + ` `)
	if said := s.sh(s.command("trash list")); !inTrash.MatchString(said) {
		s.t.Errorf("trash list says %s", said)
	}
	if said := s.sh(s.command("trash restore " + volume)); said != volume {
		s.t.Errorf("trash restore says %q", said)
	}
	if got := s.try(volume, "cat /data/file"); got != text {
		s.t.Errorf("the volume that was brought back has %q", got)
	}
	s.sh("docker volume rm " + volume)
	type trashed struct{ Entry, Volume string }
	var entries []trashed
	s.must(json.Unmarshal([]byte(s.sh(s.command("trash list --json"))), &entries))
	i := slices.IndexFunc(entries, func(e trashed) bool { return e.Volume == volume })
	if i < 0 {
		s.t.Fatalf("trash list --json has no %s, but %v", volume, entries)
	}
	if said := s.sh(s.command("trash empty " + entries[i].Entry)); said != "1 deleted" {
		s.t.Errorf("trash empty says %q", said)
	}
	if said := s.sh(s.command("trash list")); inTrash.MatchString(said) {
		s.t.Errorf("after trash empty, trash list says %s", said)
	}
}
