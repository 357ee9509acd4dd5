//go:build integration

package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests in the files protocol_*_test.go hold the managed plugin against real
// Engines. Names with a number are those of the rules in Docker's protocol that an
// Engine really follows (docs: the decisions on the protocol); the plugin's own tests
// have those that no Engine can be made to break.

func TestProtocolWhatTheEngineAsks(t *testing.T) {
	s := oneHost(t)
	mark, seen := s.mark(), 0
	// expect looks at the calls that a step led to; IDs are given letters in
	// the order in which they appear. The log comes a moment after the answer.
	letters := map[string]string{}
	expect := func(step, want string) {
		t.Helper()
		var got []string
		for begun := time.Now(); time.Since(begun) < moment; time.Sleep(100 * time.Millisecond) {
			got = nil
			calls := s.calls(mark, "asked")
			for _, c := range calls[seen:] {
				text := c.call
				if c.id != "" {
					if letters[c.id] == "" {
						letters[c.id] = string(rune('a' + len(letters)))
					}
					text += " " + letters[c.id]
				}
				if c.outcome != "ok" || c.level != "info" {
					text += ": " + c.level + " " + c.outcome
				}
				got = append(got, text)
			}
			if strings.Join(got, ", ") == want {
				seen = len(calls)
				return
			}
		}
		t.Fatalf("%s led to %q, want %q", step, strings.Join(got, ", "), want)
	}

	s.sh("docker volume create -d efs --label tier=db -o uid=999 asked")
	expect("create", "Create")
	s.sh("docker volume create -d efs -o uid=5 asked")
	if got := s.sh("docker volume ls -q -f driver=" + siteDriver + " -f name=asked"); got != "asked" {
		t.Errorf("ls shows %q", got)
	}
	const fields = "{{.Driver}} {{.Scope}} {{.Labels.tier}} {{.Options.uid}} {{.Status.options.uid}} {{.CreatedAt}}"
	if got := s.sh("docker volume inspect -f '" + fields + "' asked"); !strings.HasPrefix(got, siteDriver+" global db 999 999 ") {
		t.Errorf("inspect: %s", got)
	} else if created, err := time.Parse(time.RFC3339, strings.Fields(got)[5]); err != nil || time.Since(created).Abs() > time.Minute {
		t.Errorf("created at %v, %v", created, err)
	}
	expect("create again with other options, ls and inspect", "")

	// An image without the directory, one with it, and one told not to copy.
	s.try("asked", "true")
	expect("run", "Mount a, Unmount a")
	s.sh("docker run --rm --network none -v asked:/etc/postgresql-common --entrypoint true postgres")
	expect("run with copy-up", "Mount b, Unmount b, Mount c, Unmount c")
	s.sh("docker run -d --name asked --network none -v asked:/etc/postgresql-common:nocopy --entrypoint sleep postgres 100000")
	expect("run with nocopy", "Mount d")
	s.sh("docker cp asked:/etc/postgresql-common/root.crt /tmp/")
	expect("cp", "Mount d, Unmount d")
	s.sh("docker kill asked")
	expect("kill", "Unmount d")
	s.sh("docker start asked")
	expect("start", "Mount e")
	s.fails(20*time.Second, "docker volume rm asked")
	expect("rm of a volume in use", "")
	s.sh("docker rm -f asked")
	expect("rm -f", "Unmount e")
	s.sh("docker volume rm asked")
	expect("volume rm", "Remove")
	s.fails(20*time.Second, "docker volume create -d efs -o size=10G asked")
	s.eventually(moment, "a wrong option is an error in the Engine's log", func() bool {
		calls := s.calls(mark, "asked")[seen:]
		return len(calls) == 1 && calls[0].level == "error" && strings.Contains(calls[0].outcome, "size")
	})
	s.fails(20*time.Second, "docker volume rm asked")
}

func TestProtocolVolumeIsFoundOnTheOtherHostAtOnce(t *testing.T) {
	a, b := bothHosts(t)
	a.sh("docker volume create -d efs -o mode=0750 inspected")
	if got := b.sh("docker volume inspect -f '{{.Driver}} {{.Status.options.mode}} {{.Status.created_by}}' inspected"); got != siteDriver+" 0750 host-a" {
		t.Errorf("inspect on host-b: %s", got)
	}
	a.volume("listed")
	// ls waits for news for a moment only: on a slow host the second one has them.
	b.eventually(moment, "ls on host-b shows the volume", func() bool { return b.lists("listed") })
	// Without a driver Docker makes a local volume, if nobody has one.
	a.volume("ran")
	a.try("ran", "sh -c 'echo from a >/data/greeting'")
	if got := b.try("ran", "cat /data/greeting"); got != "from a" {
		t.Errorf("a container on host-b reads %q", got)
	}
	a.sh("docker volume rm inspected")
	b.eventually(moment, "host-b hears that the volume is gone", func() bool { return !b.lists("inspected") })
}

func TestProtocolRule7RemoveIsNotBlockedByLeakedCounts(t *testing.T) {
	s := oneHost(t)
	s.volume("leaked")
	for _, c := range []struct{ call, body string }{
		{"Mount", `{"Name":"leaked","ID":"nobody"}`},
		{"Unmount", `{"Name":"leaked","ID":"unknown"}`},
		{"Unmount", `{"Name":"unheard-of","ID":"unknown"}`},
	} {
		if _, err := s.call(t.Context(), c.call, c.body); err != nil {
			t.Errorf("%s %s: %v", c.call, c.body, err)
		}
	}
	if got := s.onlyID("leaked"); got != "nobody" {
		t.Errorf("the mount is counted for %s", got)
	}
	s.sh("docker volume rm leaked")
	if s.kernelMount("leaked") != "" {
		t.Error("the removed volume is still mounted")
	}
}

// The Engine takes any string for a name, and then cannot delete it.
func TestProtocolRule12NamesAreRefusedAtCreate(t *testing.T) {
	s := oneHost(t)
	names := map[string]string{
		"climbing":             "../../evil",
		"two dots":             "..",
		"a dot":                ".",
		"a slash":              "a/b",
		"an absolute path":     "/etc",
		"a blank":              " ",
		"words":                "evil name",
		"letters of Europe":    "größe",
		"from right to left":   "a\u202eb",
		"a control character":  "a\x01b",
		"NUL":                  "a\x00b",
		"a new line":           "a\nb",
		"an escape":            "\x1b[31mred",
		"the catalogue":        ".docker-volume-efs",
		"a leading dash":       "-rf",
		"300 bytes":            strings.Repeat("x", 300),
		"201 bytes":            strings.Repeat("x", 201),
		"the replacement mark": "a\ufffd",
		"shell":                "$(reboot)",
		"a path of Windows":    `c:\x`,
	}
	for what, name := range names {
		// The Engine puts the name in front, as it is; the rest is ours.
		status, message := s.create(name)
		_, text, ours := strings.Cut(message, "VolumeDriver.Create: ")
		if status < http.StatusBadRequest || !ours || !strings.Contains(text, "is not allowed: use 1 to 200 of") || strings.ContainsAny(text, "\x00\x01\x1b\n") || len(text) > 600 {
			t.Errorf("%s: create says %d %q", what, status, text)
		}
	}
	if text := s.fails(20*time.Second, "docker volume create -d efs ../../evil"); !strings.Contains(text, "is not allowed") {
		t.Errorf("docker says %q", text)
	}
	shown := s.sh("docker volume ls --format '{{.Name}}'") + "\n"
	for what, name := range names {
		if strings.Contains("\n"+shown, "\n"+name+"\n") {
			t.Errorf("%s: ls shows it", what)
		}
		if _, err := os.Lstat(filepath.Join(s.lab.Server.Dir("/export"), strings.ReplaceAll(name, "\x00", ""))); err == nil && !strings.HasPrefix(name, ".") && name != " " {
			t.Errorf("%s: there is a directory", what)
		}
	}
	longest := strings.Repeat("x", 200)
	s.volume(longest)
	s.try(longest, "true")
}

func TestProtocolRule13VolumeIsEmptyWhenItIsMade(t *testing.T) {
	s := oneHost(t)
	for _, name := range []string{"pgdata", "seeded"} {
		s.volume(name)
		entries, err := os.ReadDir(filepath.Join(s.lab.Server.Dir("/export"), name))
		if err != nil || len(entries) > 0 {
			t.Errorf("the new volume %s has %v, %v", name, entries, err)
		}
	}
	// Postgres makes its database in an empty directory only.
	s.sh("docker run -d --name pgdata --network none -v pgdata:/var/lib/postgresql/data postgres")
	// The image's files come into an empty volume with owner, mode and content.
	list := "cd /etc/postgresql-common && find . -type f -exec stat -c '%n %u:%g %a %s' {} + | sort; find . -type d -exec stat -c '%n %u:%g %a' {} + | sort"
	image := s.sh(`docker run --rm --network none --entrypoint sh postgres -c "` + list + `"`)
	volume := s.sh(`docker run --rm --network none -v seeded:/etc/postgresql-common --entrypoint sh postgres -c "` + list + `"`)
	if image != volume || !strings.Contains(image, "root.crt") {
		t.Errorf("the image has\n%s\nthe volume has\n%s", image, volume)
	}
	s.sh("for i in $(seq 90); do docker exec pgdata pg_isready -q -U postgres && exit 0; sleep 1; done; docker logs pgdata >&2; exit 1")
}

// docker run mounts, unmounts and mounts within milliseconds, and a container
// that is restarted comes back within seconds: all on one mount of the kernel's.
func TestProtocolRule14MountStaysWarm(t *testing.T) {
	s := oneHost(t)
	s.volume("warm")
	const line = "docker run --rm --network none -v warm:/etc/postgresql-common --entrypoint true postgres"
	mark := s.mark()
	s.sh(line)
	first := s.kernelMount("warm")
	s.sh(line)
	second := s.kernelMount("warm")
	mounts := 0
	for _, c := range s.calls(mark, "warm") {
		if c.call == "Mount" {
			mounts++
		}
	}
	if mounts < 3 {
		t.Errorf("the Engine has mounted only %d times", mounts)
	}
	if first == "" || first != second {
		t.Errorf("the kernel's mount is %q after the first run, %q after the second", first, second)
	}
	s.detached("warm")
	if counts := s.counts("warm"); counts != nil {
		t.Errorf("the detached volume has the counts %v", counts)
	}
}

// A fresh mount placed over an old one shows up in running containers, for
// writing also in those that may only read.
func TestProtocolRule15RunningContainersKeepTheirMount(t *testing.T) {
	s := oneHost(t)
	s.volume("replaced")
	s.try("replaced", "sh -c 'echo old >/data/which'")
	s.sh("docker run -d --name replaced --network none -v replaced:/data:ro busybox sleep 100000")
	// An operator restores the directory from a backup.
	s.sh(`mount -t nfs4 -o vers=4.1 10.77.0.11:/export /mnt
		mv /mnt/replaced /mnt/replaced-before && mkdir /mnt/replaced && echo new >/mnt/replaced/which; umount /mnt`)
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(s.lab.Server.Dir("/export"), "replaced-before")) })
	s.eventually(30*time.Second, "the next container gets the new directory", func() bool {
		return s.try("replaced", "cat /data/which") == "new"
	})
	if got := s.sh("docker exec replaced cat /data/which"); got != "old" {
		t.Errorf("the running container reads %q", got)
	}
	s.fails(20*time.Second, "docker exec replaced touch /data/file")
}
