//go:build integration

package integration

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	storyReady = "pg_isready -q -h 127.0.0.1 -U postgres"
	storySQL   = "psql -qAt -h 127.0.0.1 -U postgres -c "
)

// story is a Postgres on the plugin's volume.
type story struct{ *site }

func newStory(t *testing.T) *story { return &story{newSite(t)} }

// afterwards cleans up on host-a when the test's own context has ended.
func (s *story) afterwards(line string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.a.Run(ctx, line); err != nil {
		s.t.Errorf("clean up: %v", err)
	}
}

// postgres starts it as a container and waits until it answers.
func (s *story) postgres(h *lab.Host) {
	s.t.Helper()
	s.sh(h, "docker run -d --name db --network none -v pgdata:/var/lib/postgresql/data postgres")
	s.ready(h, "db")
}

func (s *story) ready(h *lab.Host, container string) {
	s.t.Helper()
	s.eventually(swarmLimit, "Postgres answers on "+h.Name(), func() bool {
		_, err := h.Run(s.t.Context(), "docker exec "+container+" "+storyReady)
		return err == nil
	})
}

func (s *story) wantRows(h *lab.Host, container, want string) {
	s.t.Helper()
	if got := s.sh(h, "docker exec "+container+" "+storySQL+"'SELECT string_agg(v, chr(44) ORDER BY v) FROM t'"); got != want {
		s.t.Errorf("rows on %s: %q, want %q", h.Name(), got, want)
	}
}

// The main job, on both Engines.
func TestProtocolPostgresMovesToAnotherHost(t *testing.T) {
	s := newStory(t)
	s.sh(s.a, "docker volume create -d efs pgdata")
	s.postgres(s.a)
	s.sh(s.a, "docker exec db "+storySQL+`"CREATE TABLE t (v text); INSERT INTO t VALUES ('one'), ('two')"`)
	s.sh(s.a, "kill -9 $(docker inspect -f '{{.State.Pid}}' db) && docker wait db")
	s.postgres(s.b)
	s.wantRows(s.b, "db", "one,two")
	s.sh(s.b, "docker exec db "+storySQL+`"INSERT INTO t VALUES ('three')"`)
	s.sh(s.b, "docker rm -f db")
	s.sh(s.a, "docker start db")
	s.ready(s.a, "db")
	s.wantRows(s.a, "db", "one,three,two")
}

// composeFile is the example that the README shows.
func composeFile(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README shows no compose file")
	}
	return string(block[1])
}
