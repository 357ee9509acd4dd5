//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"
)

// TestVolumeInUseElsewhere has an operator on one host remove what a container on another uses.
func TestVolumeInUseElsewhere(t *testing.T) {
	s := newSite(t)
	s.sh(s.a, "docker volume create -d efs inuse && docker run -d --name user --network none -v inuse:/data busybox sh -c 'echo rows >/data/file; sleep 1h'")
	said := s.sh(s.b, "docker volume rm inuse 2>&1 || true")
	if !strings.Contains(said, "host-a uses it since") || !strings.Contains(said, "stop its containers there first") {
		t.Errorf("Docker says %q", said)
	}
	s.eventually(30*time.Second, "both hosts say who uses it", func() bool {
		const users = "docker volume inspect -f '{{.Status.used_by}}' inuse"
		return strings.Contains(s.sh(s.a, users), "host-a since") && strings.Contains(s.sh(s.b, users), "host-a since")
	})
	s.sh(s.a, "docker exec user grep rows /data/file")
	s.sh(s.a, "docker rm -f user")
	if said := s.sh(s.b, "docker volume rm inuse 2>&1 || true"); strings.TrimSpace(said) != "inuse" {
		t.Errorf("right after the container's end Docker says %q", said)
	}
}
