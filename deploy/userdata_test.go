package deploy_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const userData = "aws/user-data.sh"

// program finds a program that scripts/setup.sh installs on Debian. There, that it is
// missing is a failure and not a reason to skip.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if _, err := exec.LookPath("dpkg-query"); err == nil {
		t.Fatalf("%s is missing: scripts/setup.sh installs it", name)
	}
	t.Skipf("NOT TESTED: %s is missing, and this is not Debian", name)
	return ""
}

func TestShellcheckTakesTheUserData(t *testing.T) {
	shellcheck := program(t, "shellcheck")
	if out, err := exec.CommandContext(t.Context(), shellcheck, userData).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "user-data.sh")
	text := strings.Replace(string(read(t, userData)), `rm -rf "$dir"`, `rm -rf $dir`, 1)
	if err := os.WriteFile(broken, []byte(strings.Replace(text, `download "$dir/bundle"`, `download $dir/bundle`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), shellcheck, broken).CombinedOutput(); err == nil || !strings.Contains(string(out), "SC2086") {
		t.Errorf("it does not see what is wrong: %v\n%s", err, out)
	}
}

// stubs are the instance's programs. What they know is in files of $STATE: docker is
// running, the plugin is there (its content: whether it is enabled), how often the network still fails.
var stubs = map[string]string{
	"docker": `
[ -e "$STATE/engine" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
[ "$1" != version ] || exit 0
case $2 in
inspect) [ -e "$STATE/plugin" ] && cat "$STATE/plugin" ;;
create) [ -x "$4/rootfs/docker-volume-efs" ] && echo false >"$STATE/plugin" ;;
install) network && echo false >"$STATE/plugin" ;;
set) case "$*" in *EFS_CA_FILE=wrong*) exit 1 ;; esac ;;
enable) [ ! -e "$STATE/ill" ] && echo true >"$STATE/plugin" ;;
esac`,
	"systemctl": `[ "$*" != "start docker" ] || [ -e "$STATE/broken" ] || : >"$STATE/engine"`,
	"modprobe":  `[ ! -e "$STATE/old" ]`,
	"dnf":       `network && ln -s "$STATE/stubs/docker" "$STATE/bin/docker"`,
	"aws":       `network && cp "$STATE/bundle" "$5"`,
	"curl":      `network && cp "$STATE/bundle" "$5"`,
	"sleep":     ``,
}

const prelude = `#!/bin/sh
echo "$(basename "$0") $*" >>"$STATE/calls"
network() {
	[ -e "$STATE/fails" ] || return 0
	read -r left <"$STATE/fails"
	[ "$left" != 0 ] || return 0
	echo $((left - 1)) >"$STATE/fails"
	echo "network is unreachable" >&2
	return 1
}
`

// instance is a directory with the programs of an EC2 instance, and nothing else on its path.
type instance struct {
	t     *testing.T
	state string
}

// newInstance has the named files in its state, as {"engine": ""}.
func newInstance(t *testing.T, files map[string]string, without ...string) instance {
	t.Helper()
	i := instance{t, t.TempDir()}
	for _, dir := range []string{"bin", "stubs"} {
		if err := os.Mkdir(filepath.Join(i.state, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, does := range stubs {
		stub := filepath.Join(i.state, "stubs", name)
		if err := os.WriteFile(stub, []byte(prelude+does+"\n"), 0o700); err != nil { //nolint:gosec // a program is executable
			t.Fatal(err)
		}
		if !slices.Contains(without, name) {
			i.link(stub, name)
		}
	}
	for _, name := range []string{"sh", "basename", "cat", "cp", "cut", "dirname", "grep", "gzip", "ln", "mkdir", "mktemp", "rm", "sha256sum", "tar"} {
		i.link(program(t, name), name)
	}
	for name, content := range files {
		i.write(name, content)
	}
	return i
}

func (i instance) link(program, name string) {
	i.t.Helper()
	if err := os.Symlink(program, filepath.Join(i.state, "bin", name)); err != nil {
		i.t.Fatal(err)
	}
}

func (i instance) write(name, content string) {
	i.t.Helper()
	if err := os.WriteFile(filepath.Join(i.state, name), []byte(content), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

func (i instance) has(name string) string {
	text, _ := os.ReadFile(filepath.Join(i.state, name))
	return string(text)
}

// run runs user data, and gives its output and whether it ended well.
func (i instance) run(script string, environment ...string) (string, bool) {
	i.t.Helper()
	command := exec.CommandContext(i.t.Context(), "/bin/sh", script)
	command.Env = append([]string{
		"PATH=" + filepath.Join(i.state, "bin"), "STATE=" + i.state, "TMPDIR=" + i.state, "TRIES=4", "ECS_CONFIG=" + filepath.Join(i.state, "ecs.config"),
	}, environment...)
	out, err := command.CombinedOutput()
	if left, _ := filepath.Glob(filepath.Join(i.state, "tmp.*")); left != nil {
		i.t.Errorf("it leaves %v behind", left)
	}
	return string(out), err == nil
}

// bundle is what make rootfs makes, as .tar.gz.
func bundle(t *testing.T, files ...string) string {
	t.Helper()
	var packed strings.Builder
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for _, name := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(name))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if archive.Close() != nil || zipped.Close() != nil {
		t.Fatal("the archive cannot be closed")
	}
	return packed.String()
}

func TestUserDataInstallsThePlugin(t *testing.T) {
	good := bundle(t, "./config.json", "./rootfs/docker-volume-efs")
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(good)))
	const source = "PLUGIN_SOURCE=" + bundleOnS3
	for _, row := range []struct {
		name        string
		files       map[string]string // beside the bundle
		without     string
		environment []string
		well        bool
		says        string
		calls       []string // among others, in this order
		never       string
	}{
		{
			"a new instance",
			map[string]string{"engine": ""},
			"",
			[]string{source, "EFS_FILESYSTEM=fs-1", "EFS_TLS=on", "EFS_ROOT=/my volumes"},
			true, "efs is enabled",
			[]string{"modprobe nfsv4", "aws s3 cp --only-show-errors " + bundleOnS3, "docker plugin create efs ", "docker plugin set efs EFS_FILESYSTEM=fs-1 EFS_ROOT=/my volumes EFS_TLS=on\n", "docker plugin enable efs", "systemctl --no-block try-restart ecs"},
			"dnf",
		},
		{
			"the plugin is installed already",
			map[string]string{"engine": "", "plugin": "true"},
			"",
			[]string{source, "EFS_FILESYSTEM=fs-1"},
			true, "installed and enabled already",
			nil, "aws|create|set|enable|restart",
		},
		{
			"an earlier run came half way",
			map[string]string{"engine": "", "plugin": "false"},
			"",
			[]string{source, "EFS_FILESYSTEM=fs-1"},
			true, "efs is enabled",
			[]string{"docker plugin set efs EFS_FILESYSTEM=fs-1", "docker plugin enable efs"},
			"aws|create",
		},
		{"nothing is set", map[string]string{"engine": ""}, "", []string{source}, true, "efs is enabled", []string{"docker plugin enable efs"}, "plugin set"},
		{
			"the fetch fails twice and then works",
			map[string]string{"engine": "", "fails": "2\n"},
			"",
			[]string{source},
			true, "fetching " + bundleOnS3 + ": try 2 of 4 failed, again in 6 s",
			[]string{"aws s3", "sleep 3", "aws s3", "sleep 6", "aws s3", "docker plugin create"},
			"",
		},
		{"the fetch never works", map[string]string{"engine": "", "fails": "9\n"}, "", []string{source}, false, "FAILED: " + bundleOnS3 + " cannot be fetched", nil, "plugin create"},
		{"Docker does not run yet", nil, "", []string{source}, true, "efs is enabled", []string{"systemctl enable docker", "systemctl start docker", "docker plugin create"}, "dnf"},
		{"Docker does not start", map[string]string{"broken": ""}, "", []string{source}, false, "FAILED: Docker Engine does not answer", []string{"systemctl start docker", "sleep 3", "sleep 6", "sleep 9"}, "plugin"},
		{
			"Docker is not installed, and the mirror fails once",
			map[string]string{"fails": "1\n"},
			"docker",
			[]string{source},
			true, "dnf install docker: try 1 of 4 failed",
			[]string{"dnf -y install docker", "sleep 3", "dnf -y install docker", "systemctl start docker", "docker plugin create"},
			"",
		},
		{"Docker cannot be installed", map[string]string{"fails": "9\n"}, "docker", []string{source}, false, "FAILED: dnf could not install docker", nil, "plugin"},
		{"the bundle has the right digest", map[string]string{"engine": ""}, "", []string{source, "PLUGIN_SHA256=" + digest}, true, "efs is enabled", nil, ""},
		{"it is another bundle", map[string]string{"engine": ""}, "", []string{source, "PLUGIN_SHA256=" + strings.Repeat("0", 64)}, false, "its SHA-256 is " + digest, nil, "plugin create"},
		{"it is no archive", map[string]string{"engine": "", "bundle": "<html>"}, "", []string{source}, false, "FAILED: " + bundleOnS3 + " is not a bundle", nil, "plugin create"},
		{"it is an archive of something else", map[string]string{"engine": "", "bundle": bundle(t, "./README")}, "", []string{source}, false, "is not a bundle", nil, "plugin create"},
		{
			"the bundle is on a web server",
			map[string]string{"engine": ""},
			"",
			[]string{"PLUGIN_SOURCE=https://plugins.example.com/efs.tar.gz"},
			true, "efs is enabled",
			[]string{"curl -fsSL --connect-timeout 10 -o ", "docker plugin create efs "},
			"aws",
		},
		{
			"the plugin is in a registry that fails once",
			map[string]string{"engine": "", "fails": "1\n"},
			"",
			[]string{"PLUGIN_SOURCE=registry.example.com/efs:1", "PLUGIN_NAME=volumes"},
			true, "volumes is enabled",
			[]string{"docker plugin install --grant-all-permissions --disable --alias volumes registry.example.com/efs:1", "sleep 3", "docker plugin install", "docker plugin enable volumes"},
			"aws|create",
		},
		{"nobody said where the plugin is", map[string]string{"engine": ""}, "", nil, false, "FAILED: PLUGIN_SOURCE is empty", nil, "plugin create"},
		{"the plugin does not start", map[string]string{"engine": "", "ill": ""}, "", []string{source}, false, "FAILED: efs does not start", nil, "restart"},
		{"a setting is refused", map[string]string{"engine": ""}, "", []string{source, "EFS_CA_FILE=wrong"}, false, "FAILED: the plugin does not know one of: EFS_CA_FILE=wrong", nil, "plugin enable"},
		{"the kernel has no NFS client", map[string]string{"engine": "", "old": ""}, "", []string{source}, false, "FAILED: this kernel has no NFSv4 client", nil, "docker"},
	} {
		t.Run(row.name, func(t *testing.T) {
			i := newInstance(t, map[string]string{"bundle": good}, row.without)
			for name, content := range row.files {
				i.write(name, content)
			}
			out, well := i.run(userData, row.environment...)
			if well != row.well || !strings.Contains(out, row.says) {
				t.Errorf("ended well: %v, want %q in\n%s", well, row.says, out)
			}
			if last := out[strings.LastIndex(strings.TrimRight(out, "\n"), "\n")+1:]; !well && !strings.HasPrefix(last, "docker-volume-efs: FAILED: ") {
				t.Errorf("the last line does not say so: %s", last)
			}
			rest := i.has("calls")
			for _, call := range row.calls {
				_, after, found := strings.Cut(rest, call)
				if !found {
					t.Errorf("no call %q in the rest of\n%s", call, i.has("calls"))
				}
				rest = after
			}
			if row.never != "" && regexp.MustCompile(`(?m)^(.*(?:`+row.never+`).*)$`).MatchString(withoutQuestions(i.has("calls"))) {
				t.Errorf("it should never do %s:\n%s", row.never, i.has("calls"))
			}
			if enabled := i.has("plugin") == "true\n" || i.has("plugin") == "true"; enabled != row.well {
				t.Errorf("the plugin is enabled: %v", enabled)
			}
		})
	}
}

// withoutQuestions leaves out what changes nothing.
func withoutQuestions(calls string) string {
	return regexp.MustCompile(`(?m)^docker (version|plugin inspect .*)\n`).ReplaceAllString(calls, "")
}

func TestUserDataJoinsTheClusterOnce(t *testing.T) {
	i := newInstance(t, map[string]string{"engine": "", "bundle": bundle(t, "config.json", "rootfs/docker-volume-efs"), "ecs.config": "ECS_LOGLEVEL=warn\n"})
	for range 2 {
		if out, well := i.run(userData, "PLUGIN_SOURCE="+bundleOnS3, "ECS_CLUSTER=web"); !well {
			t.Fatal(out)
		}
	}
	if got := i.has("ecs.config"); got != "ECS_LOGLEVEL=warn\nECS_CLUSTER=web\n" {
		t.Errorf("ecs.config:\n%s", got)
	}
	if restarts := strings.Count(i.has("calls"), "restart ecs"); restarts != 1 {
		t.Errorf("the agent is restarted %d times", restarts)
	}
}

// A setting that is new must be passed on, or nobody can give it to an instance.
func TestUserDataKnowsEverySetting(t *testing.T) {
	var manifest struct{ Env []struct{ Name string } }
	if err := json.Unmarshal(read(t, "../config.json"), &manifest); err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)\nsettings='(.*?)'`).FindStringSubmatch(string(read(t, userData)))
	if list == nil || len(manifest.Env) == 0 {
		t.Fatal("no list of settings")
	}
	// An instance has a role and metadata: keys do not belong into user data, which everybody
	// on it can read, and files are not there.
	others := []string{"AWS_REGION", "AWS_ENDPOINT_URL", "AWS_USE_FIPS_ENDPOINT", "GODEBUG"}
	for _, setting := range manifest.Env {
		wanted := strings.HasPrefix(setting.Name, "EFS_") || slices.Contains(others, setting.Name)
		if passed := slices.Contains(strings.Fields(list[1]), setting.Name); passed != wanted {
			t.Errorf("%s is passed on: %v, want %v", setting.Name, passed, wanted)
		}
	}
}
