package driver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(contender); text != "" {
		if err := contend(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	mounttest.Main(m)
}

// warm is short, so that tests need not wait for a volume to be detached.
const warm = 50 * time.Millisecond

// testHost is a driver with a data directory of its own. Several of them on one
// directory are several hosts.
type testHost struct {
	*driver.Driver
	t       *testing.T
	options driver.Options
}

// newHost starts a host on a directory that stands for the shared file system.
func newHost(t *testing.T, shared string, change ...func(*driver.Options)) *testHost {
	t.Helper()
	h := &testHost{t: t, options: hostOptions(shared, t.TempDir(), "host-"+filepath.Base(t.TempDir()))}
	for _, c := range change {
		c(&h.options)
	}
	h.start()
	t.Cleanup(func() {
		h.stop()
		h.AwaitStragglers(2 * time.Second) // or they write into directories that are being removed
		for name := range h.mounted() {
			if _, err := mount.Detach(h.point(name)); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

func hostOptions(shared, data, host string) driver.Options {
	return driver.Options{
		Data: data, FileSystem: filesystem.Spec{Kind: filesystem.Directory, Dir: shared},
		Host: host, Warm: warm, Check: time.Hour,
	}
}

func silence() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func (h *testHost) start() {
	h.t.Helper()
	d, err := driver.New(h.options, silence())
	if err != nil {
		h.t.Fatal(err)
	}
	d.Start()
	h.Driver = d
}

func (h *testHost) stop() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
}

// restart is what a crash of the plugin leaves and the next start finds: mounts and state
// stay, the process's memory does not.
func (h *testHost) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

func (h *testHost) point(name string) string {
	return filepath.Join(h.options.Data, "volumes", name)
}

func (h *testHost) mounted() map[string]bool {
	h.t.Helper()
	mounted, err := mount.Under(filepath.Join(h.options.Data, "volumes"))
	if err != nil {
		h.t.Fatal(err)
	}
	return mounted
}

func (h *testHost) create(name string, pairs ...string) {
	h.t.Helper()
	if err := h.Create(h.t.Context(), name, opts(pairs...)); err != nil {
		h.t.Fatal(err)
	}
}

func opts(pairs ...string) map[string]string {
	all := map[string]string{}
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		all[key] = value
	}
	return all
}

func (h *testHost) mount(name, id string) {
	h.t.Helper()
	err := h.Mount(h.t.Context(), name, id, func(point string) error {
		if point != h.point(name) {
			h.t.Errorf("mountpoint %s, want %s", point, h.point(name))
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) unmount(name, id string) {
	h.t.Helper()
	if err := h.Unmount(name, id); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) status(name string) map[string]any {
	h.t.Helper()
	info, err := h.Get(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	return info.Status
}

// counts are the mounts that Status shows.
func (h *testHost) counts(name string) map[string]int {
	h.t.Helper()
	counts, _ := h.status(name)["mounts"].(map[string]int)
	return counts
}

func (h *testHost) wantCounts(name string, pairs map[string]int) {
	h.t.Helper()
	if got := h.counts(name); !maps.Equal(got, pairs) {
		h.t.Errorf("counts of %s: %v, want %v", name, got, pairs)
	}
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (h *testHost) write(name, file, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.point(name), file), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) wantFile(name, file, content string) {
	h.t.Helper()
	got, err := os.ReadFile(filepath.Join(h.point(name), file))
	if err != nil || string(got) != content {
		h.t.Errorf("%s in %s: %q, %v; want %q", file, name, got, err, content)
	}
}

func wantKind(t *testing.T, err error, kind driver.Kind, words ...string) {
	t.Helper()
	var known *driver.Error
	if !errors.As(err, &known) {
		t.Fatalf("error %v is no driver.Error", err)
	}
	if known.Kind != kind {
		t.Errorf("error %q is of kind %d, want %d", err, known.Kind, kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is more than one line", err)
	}
}

func TestDataMovesFromHostToHost(t *testing.T) {
	shared := t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data")
	a.mount("data", "1")
	a.write("data", "rows", "three")
	a.unmount("data", "1")
	b.mount("data", "2")
	b.wantFile("data", "rows", "three")
}

func TestOtherHostFindsVolumeWithoutOptions(t *testing.T) {
	shared := t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data", "uid=0", "mode=0700", "path=/apps/data")
	if got := b.status("data")["path"]; got != "/apps/data" {
		t.Errorf("path on the other host: %v", got)
	}
	eventually(t, "the other host lists the volume", func() bool {
		volumes, _ := b.List(t.Context())
		return slices.ContainsFunc(volumes, func(s driver.Summary) bool { return s.Name == "data" })
	})
}

func TestCreate(t *testing.T) {
	t.Run("twice with the same options works", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data", "mode=0700")
		h.create("data", "mode=0700")
	})
	t.Run("without options finds what another host made with some", func(t *testing.T) {
		shared := t.TempDir()
		newHost(t, shared).create("data", "mode=0700")
		newHost(t, shared).create("data")
	})
	t.Run("with other options shows the difference and changes nothing", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data", "mode=0700", "readonly=false")
		err := h.Create(t.Context(), "data", opts("mode=0755", "readonly=true"))
		wantKind(t, err, driver.Conflict, `mode is "0700", not "0755"`, `readonly is "false", not "true"`)
		if got := h.status("data")["options"].(map[string]string)["mode"]; got != "0700" {
			t.Errorf("mode is now %q", got)
		}
	})
	t.Run("sets owner and mode of a new directory", func(t *testing.T) {
		shared := t.TempDir()
		newHost(t, shared).create("data", "mode=2750", "path=/a/b")
		info, err := os.Stat(filepath.Join(shared, "a/b"))
		if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o750 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("leaves an existing directory alone", func(t *testing.T) {
		shared := t.TempDir()
		old := filepath.Join(shared, "old")
		if err := errors.Join(os.Mkdir(old, 0o700), os.Chmod(old, 0o711)); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		h := newHost(t, shared)
		h.create("data", "path=/old", "mode=0700")
		if info, err := os.Stat(old); err != nil || info.Mode().Perm() != 0o711 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if h.status("data")["adopted"] != true {
			t.Error("Status does not say that the directory was there before")
		}
	})
	t.Run("puts nothing into the volume", func(t *testing.T) {
		shared := t.TempDir()
		newHost(t, shared).create("data")
		if entries, err := os.ReadDir(filepath.Join(shared, "data")); err != nil || len(entries) > 0 {
			t.Errorf("a new volume holds %v, %v", entries, err)
		}
	})
	t.Run("takes up what a crash left half made", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data", "mode=0700")
		record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
		halfMade(t, record, filepath.Join(shared, "data"))
		other := newHost(t, shared)
		other.mount("data", "1")
		if info, err := os.Stat(filepath.Join(shared, "data")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
}

// halfMade puts a volume back to where only its record has been written.
func halfMade(t *testing.T, record, dir string) {
	t.Helper()
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Replace(string(text), `"ready"`, `"creating"`, 1)
	if half == string(text) {
		t.Fatalf("record is not ready: %s", text)
	}
	if err := errors.Join(os.WriteFile(record, []byte(half), 0o600), os.Remove(dir)); err != nil {
		t.Fatal(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	shared := t.TempDir()
	if err := os.MkdirAll(filepath.Join(shared, "other-root/.docker-volume-efs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(shared, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shared, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, shared)
	for what, c := range map[string]struct {
		name  string
		opts  map[string]string
		words []string
	}{
		"a name that climbs":            {"../../evil", nil, []string{"../../evil", "1 to 200"}},
		"an empty name":                 {"", nil, []string{"1 to 200"}},
		"a name with a slash":           {"a/b", nil, []string{"a/b"}},
		"a name with a control char":    {"a\nb", nil, []string{`a\nb`}},
		"a name of 300 bytes":           {strings.Repeat("x", 300), nil, []string{"1 to 200"}},
		"a Unicode name":                {"dätä", nil, []string{"dätä"}},
		"an unknown option":             {"v", opts("sizze=1"), []string{"sizze", "filesystem, path"}},
		"a malformed uid":               {"v", opts("uid=root"), []string{"uid", "root", "a number"}},
		"a malformed mode":              {"v", opts("mode=rwx"), []string{"mode", "rwx", "octal"}},
		"a malformed size":              {"v", opts("nfs=rsize=1M"), []string{"rsize=1M", "bytes"}},
		"an NFS option that loses data": {"v", opts("nfs=soft"), []string{"soft", "loses writes"}},
		"a path that climbs":            {"v", opts("path=/a/../.."), []string{"climbs", "absolute path"}},
		"a relative path":               {"v", opts("path=a"), []string{"must begin with /"}},
		"the root as path":              {"v", opts("path=/"), []string{"root itself", "catalogue"}},
		"the catalogue as path":         {"v", opts("path=/.docker-volume-efs/volumes"), []string{"catalogue"}},
		"a directory with a catalogue":  {"v", opts("path=/other-root"), []string{"holds a catalogue"}},
		"a path through a link":         {"v", opts("path=/link/etc"), []string{"symbolic link", "never followed"}},
		"a link as path":                {"v", opts("path=/link"), []string{"symbolic link"}},
		"a file as path":                {"v", opts("path=/file"), []string{"a file is in the way"}},
		"TLS where there is none":       {"v", opts("tls=on"), []string{"tls", "for EFS file systems"}},
		"an access point of nothing":    {"v", opts("accesspoint=create"), []string{"accesspoint", "for EFS file systems"}},
		"no access point's id":          {"v", opts("accesspoint=fsap-1"), []string{`accesspoint="fsap-1"`, "fsap-0123456789abcdef0"}},
		"IAM without TLS":               {"v", opts("iam=on", "tls=off"), []string{"need tls=on"}},
		"an access point without TLS":   {"v", opts("accesspoint=fsap-0123456789abcdef0", "tls=off"), []string{"need tls=on"}},
		"a role without IAM":            {"v", opts("role=arn:aws:iam::123456789012:role/x", "iam=off"), []string{"needs iam=on"}},
		"no role's ARN":                 {"v", opts("role=admin"), []string{`role="admin"`, "arn:aws:iam::"}},
		"TLS without a relay":           {"v", opts("tls=on", "via=direct", "filesystem=fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com"), []string{"need the relay"}},
		"a word that is no access":      {"v", opts("access=private"), []string{`access="private"`, "shared, exclusive"}},
		"one host that only reads":      {"v", opts("access=exclusive", "readonly=true"), []string{"for who writes", "access=shared"}},
		"one host without a relay":      {"v", opts("access=exclusive", "via=direct"), []string{"needs the relay", "leave via out"}},
		"a malformed file system":       {"v", opts("filesystem=smb://x"), []string{"smb://x", "nfs://host"}},
		"an absent local directory":     {"v", opts("filesystem=dir:/does/not/exist"), []string{"does not exist on this host"}},
	} {
		t.Run(what, func(t *testing.T) {
			err := h.Create(t.Context(), c.name, c.opts)
			if err == nil {
				t.Fatal("it was created")
			}
			for _, word := range c.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error %q does not say %q", err, word)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is more than one line", err)
			}
			if volumes, _ := h.List(t.Context()); len(volumes) > 0 {
				t.Errorf("left behind: %v", volumes)
			}
		})
	}
}

// What Docker asks every driver about is not ours if it cannot be ours.
func TestNamesThatNoVolumeCanHave(t *testing.T) {
	h := newHost(t, t.TempDir())
	for _, name := range []string{"../evil", "a/b", ""} {
		for what, err := range map[string]error{
			"Create":  h.Create(t.Context(), name, nil),
			"Mount":   mountOf(t.Context(), h, name, "1"),
			"Unmount": h.Unmount(name, "1"),
			"Remove":  h.Remove(t.Context(), name),
		} {
			t.Run(fmt.Sprintf("%s refuses %q", what, name), func(t *testing.T) { wantKind(t, err, driver.Invalid, "1 to 200") })
		}
		t.Run(fmt.Sprintf("Get knows no %q", name), func(t *testing.T) {
			_, err := h.Get(t.Context(), name)
			wantKind(t, err, driver.NotFound)
		})
	}
}

func TestTwoHostsCreateOneNameAtTheSameMoment(t *testing.T) {
	shared := t.TempDir()
	hosts := []*testHost{newHost(t, shared), newHost(t, shared), newHost(t, shared)}
	for round := range 20 {
		name := "v" + string(rune('a'+round))
		failed := make(chan error, len(hosts))
		for i, h := range hosts {
			go func() { failed <- h.Create(context.Background(), name, opts("mode=070"+string(rune('0'+i)))) }()
		}
		won := 0
		for range hosts {
			if err := <-failed; err == nil {
				won++
			} else {
				wantKind(t, err, driver.Conflict, "mode is")
			}
		}
		if won != 1 {
			t.Fatalf("%s: %d of %d hosts made it", name, won, len(hosts))
		}
	}
}
