//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const exampleDir = "../examples"

// example copies a file of examples/ to a host and returns where it is there.
func (s *site) example(h *lab.Host, name string) string {
	s.t.Helper()
	content, err := os.ReadFile(filepath.Join(exampleDir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	path := "/root/" + strings.ReplaceAll(filepath.Dir(name), "/", "-") + "/" + filepath.Base(name)
	if err := h.UploadBytes(s.t.Context(), content, path, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// It is the example that the README shows.
func TestExampleOfANamedVolume(t *testing.T) {
	const file = "named/compose.yaml"
	if content, err := os.ReadFile(filepath.Join(exampleDir, file)); err != nil || string(content) != composeFile(t) {
		t.Errorf("the README shows another file than %s: %v", file, err)
	}
	s := newStory(t)
	a, b := s.example(s.a, file), s.example(s.b, file)
	t.Cleanup(func() { s.afterwards("docker compose -f " + a + " down --timeout 20") })
	s.sh(s.a, "docker compose -f "+a+" up -d")
	s.ready(s.a, "named-db-1")
	s.sh(s.a, "docker exec named-db-1 "+storySQL+`"CREATE TABLE t (v text); INSERT INTO t VALUES ('kept')"`)
	s.sh(s.a, "docker compose -f "+a+" down --timeout 20")
	s.sh(s.b, "docker compose -f "+b+" up -d")
	s.ready(s.b, "named-db-1")
	s.wantRows(s.b, "named-db-1", "kept")
	s.sh(s.b, "docker compose -f "+b+" down --timeout 20")
}

func TestExampleOfAConfiguration(t *testing.T) {
	s := newSite(t)
	shared := filepath.Join(s.lab.Server.Dir("/export"), "shared/config")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shared, "app.conf"), []byte("colour = green\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := s.example(s.a, "config/compose.yaml")
	s.sh(s.a, "docker compose -f "+file+" up -d")
	s.eventually(swarmLimit, "the container reads it", func() bool {
		return strings.Contains(s.sh(s.a, "docker compose -f "+file+" logs"), "colour = green")
	})
	if said := s.sh(s.a, "docker compose -f "+file+" exec -T web touch /etc/app/file 2>&1 || true"); !strings.Contains(said, "Read-only file system") {
		t.Errorf("a write says %q", said)
	}
	s.sh(s.a, "docker compose -f "+file+" down -v --timeout 1")
	if _, err := os.Stat(filepath.Join(shared, "app.conf")); err != nil {
		t.Errorf("the volume's removal took what was there before: %v", err)
	}
}

func TestExamplesInASwarm(t *testing.T) {
	w := newSwarm(t, "host-a", "host-b")
	for _, row := range []struct {
		name string
		part func(*swarm)
	}{
		{"a volume for each slot", (*swarm).testSlots},
		{"shared uploads", (*swarm).testUploads},
		{"Postgres that moves", (*swarm).testPostgres},
		{"an update that starts first", (*swarm).testStartFirst},
	} {
		t.Run(row.name, func(part *testing.T) {
			w.t = part
			defer func() { w.t = t }()
			row.part(w)
			if err := w.removeStacks(part.Context()); err != nil {
				part.Error(err)
			}
		})
	}
}

func (w *swarm) testPostgres() {
	w.deploy("exclusive/stack.yaml", "app")
	db := w.runs("app_db", nil)
	w.ready(db.on.h, db.container)
	db.on.sh("docker exec " + db.container + " " + storySQL + `"CREATE TABLE t (v text); INSERT INTO t VALUES ('one')"`)

	// Its node goes into maintenance.
	w.sh(w.a, "docker node update --availability drain "+db.on.h.Name())
	db = w.runs("app_db", db.on)
	w.ready(db.on.h, db.container)
	w.wantRows(db.on.h, db.container, "one")
	w.sh(w.a, "for n in host-a host-b; do docker node update --availability active $n; done")

	// An update stops the old one first.
	w.sh(w.a, "docker service update --detach=true --force app_db")
	before := db
	w.eventually(swarmLimit, "a new container runs", func() bool { db = w.runs("app_db", nil); return db.container != before.container })
	w.ready(db.on.h, db.container)
	w.wantRows(db.on.h, db.container, "one")
	if ended, started := before.at("FinishedAt"), db.at("StartedAt"); !ended.Before(started) {
		w.t.Errorf("the old one ended at %v, the new one started at %v", ended, started)
	}
}

func (w *swarm) testStartFirst() {
	w.deploy("exclusive/start-first.yaml", "first")
	db := w.runs("first_db", nil)
	w.ready(db.on.h, db.container)
	w.sh(w.a, "docker service update --detach=true --env-add VERSION=2 first_db")
	w.eventually(swarmLimit, "swarm rolls the update back", func() bool {
		return w.sh(w.a, "docker service inspect -f '{{.UpdateStatus.State}}' first_db") == "rollback_completed"
	})
	if said := w.sh(w.a, "docker service ps --no-trunc --format '{{.Error}}' first_db"); !strings.Contains(said, "host "+db.on.h.Name()+" has it for itself (access=exclusive)") {
		w.t.Errorf("the new task says %q", said)
	}
	if now := w.runs("first_db", nil); now != db {
		w.t.Errorf("the old container did not stay: %s %s, now %s %s", db.on.h.Name(), db.container, now.on.h.Name(), now.container)
	}
	db.on.sh("docker exec " + db.container + " " + storyReady)
}

func (w *swarm) testSlots() {
	w.deploy("slots/stack.yaml", "slots")
	for _, slot := range []string{"1", "2", "3"} {
		file := filepath.Join(w.lab.Server.Dir("/export"), "app-data-"+slot, "hosts")
		w.eventually(swarmLimit, "slot "+slot+" writes to its volume", func() bool {
			content, err := os.ReadFile(file)
			return err == nil && string(content) == "worker-"+slot+"\n"
		})
	}
}

func (w *swarm) testUploads() {
	for _, one := range w.hosts {
		// What the stack is about are its volumes: any image does.
		one.sh("docker create --name model busybox && docker commit --change 'CMD [\"sleep\",\"1000000\"]' model wordpress && docker rm model")
	}
	w.deploy("wordpress/stack.yaml", "blog")
	const container = "$(docker ps -q --filter name=blog_wordpress)"
	for _, one := range w.hosts {
		w.eventually(swarmLimit, one.h.Name()+" runs it", func() bool { return one.sh("echo "+container) != "" })
		one.sh("docker exec --user 33 " + container + " touch /var/www/html/wp-content/uploads/of-" + one.h.Name())
	}
	for _, one := range w.hosts {
		if got := one.sh("docker exec " + container + " ls /var/www/html/wp-content/uploads"); got != "of-host-a\nof-host-b" {
			w.t.Errorf("%s sees %q", one.h.Name(), got)
		}
	}
}
