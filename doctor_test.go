package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

const aSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // AWS's documentation has it

// findings plays the driver.
type findings []doctor.Finding

func (f findings) Doctor(_ context.Context, report func(doctor.Finding)) {
	for _, one := range f {
		report(one)
	}
}

// doctored answers doctor on the control socket of the result, a data directory.
func doctored(t *testing.T, found ...doctor.Finding) (data string) {
	t.Helper()
	data = t.TempDir()
	logger, log := plugin.NewLog(io.Discard, io.Discard)
	logger.Errorf("AWS said %s to http://me:password@proxy/", aSecret)
	served := &plugin.Doctor{
		Driver: findings(found), Data: data, Log: log,
		Snapshot: func() status.Snapshot {
			return status.Snapshot{Version: "v1.2.3", Host: "web", Trouble: []string{aSecret}}
		},
		Environ: []string{"AWS_SECRET_ACCESS_KEY=" + aSecret, "AWS_SESSION_TOKEN=IQoJtoken", "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_REGION=eu-west-1", "EFS_FILESYSTEM=fs-1"},
	}
	state := filepath.Join(data, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"volumes": `{"record":"pgdata"} ` + aSecret, "mounts": "", "targets": "X-Amz-Security-Token=IQoJtoken", "relays": "",
		"key.pem": "-----BEGIN PRIVATE KEY-----\nMIIEsecret\n-----END PRIVATE KEY-----\n", "host-id": "ABCDEFHOSTID",
	} {
		if err := os.WriteFile(filepath.Join(state, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := plugin.Listen(filepath.Join(data, controlSocket))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- plugin.ServeControl(listener, http.NotFoundHandler(), nil, served) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return data
}

func TestDoctorPrintsWhatThePluginFinds(t *testing.T) {
	fine, warning := doctor.Finding{Check: "settings", Outcome: doctor.OK, Found: "fine"}, doctor.Finding{Check: "clock", Outcome: doctor.Warning, Found: "off"}
	failed := doctor.Finding{Check: "port", Target: "a=10.0.1.5:2049", Outcome: doctor.Failed, Found: "silent", Why: "because", Do: "this"}
	for _, row := range []struct {
		name   string
		found  []doctor.Finding
		asJSON bool
		has    []string
		err    error
	}{
		{"when all is well", []doctor.Finding{fine}, false, []string{"ok    plugin", "docker-volume-efs v1.2.3 on web", "ok    settings", "all is well"}, nil},
		{"when something should be looked at, which is no failure", []doctor.Finding{warning}, false, []string{"warn  clock"}, nil},
		{"when something failed", []doctor.Finding{fine, failed}, false, []string{"FAIL  port a=10.0.1.5:2049", "why: because", "do:  this", "1 failed"}, errTrouble},
		{"for programs", []doctor.Finding{fine, failed}, true, []string{`"healthy": false`, `"target": "a=10.0.1.5:2049"`}, errTrouble},
	} {
		t.Run(row.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := examine(t.Context(), doctored(t, row.found...), row.asJSON, nil, &out, io.Discard); !errors.Is(err, row.err) {
				t.Errorf("the error is %v, want %v", err, row.err)
			}
			for _, want := range row.has {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not print %q:\n%s", want, out.String())
				}
			}
			if row.asJSON && !json.Valid(out.Bytes()) {
				t.Errorf("it is no JSON: %s", out.String())
			}
		})
	}
}

func TestDoctorWithoutAPluginSaysWhereToLook(t *testing.T) {
	var out bytes.Buffer
	err := examine(t.Context(), t.TempDir(), false, nil, &out, io.Discard)
	if !errors.Is(err, errTrouble) {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{"FAIL  plugin", "does not answer", "docker plugin ls", "journalctl", "propagated-mount", "kernel NFS", "Linux "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not print %q:\n%s", want, out.String())
		}
	}
}

func TestDoctorOfAGatewaySaysThatItIsOne(t *testing.T) {
	var out bytes.Buffer
	err := examine(t.Context(), plugged(t, status.Snapshot{}), false, nil, &out, io.Discard)
	if !errors.Is(err, errTrouble) || !strings.Contains(out.String(), "it is a gateway, or a plugin of an earlier version") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// unpacked are the files of an archive.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	opened, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(opened); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(header.Name)] = string(content)
	}
}

// bundled has an archive written, and returns where.
func bundled(t *testing.T, data string) (path, notes string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "report.tar.gz")
	archive, err := newArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.abandon()
	var said bytes.Buffer
	if err := examine(t.Context(), data, false, archive, io.Discard, &said); err != nil && !errors.Is(err, errTrouble) {
		t.Fatal(err)
	}
	return path, said.String()
}

func TestBundleHasEverythingButSecrets(t *testing.T) {
	data := doctored(t, doctor.Finding{Check: "identity", Outcome: doctor.OK, Found: "key AKIA…MPLE, " + aSecret})
	path, notes := bundled(t, data)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || !strings.Contains(notes, "wrote "+path) {
		t.Errorf("mode %v, %v, %q", info.Mode(), err, notes)
	}
	files := unpacked(t, path)
	for name, has := range map[string]string{
		"doctor.txt": "AKIA…MPLE", "doctor.json": `"check": "identity"`, "status.json": `"version": "v1.2.3"`, "log.txt": "AWS said [redacted]",
		"settings.txt": "AWS_ACCESS_KEY_ID set\nAWS_REGION = eu-west-1\nAWS_SECRET_ACCESS_KEY set\nAWS_SESSION_TOKEN set\nEFS_FILESYSTEM = fs-1\n",
		"version.txt":  "v1.2.3", "kernel.txt": "Linux ", "mounts.txt": "", "state-volumes.txt": "pgdata", "state-mounts.txt": "", "state-targets.txt": "", "state-relays.txt": "",
	} {
		if content, there := files[name]; !there || !strings.Contains(content, has) {
			t.Errorf("%s does not have %q: %q", name, has, content)
		}
	}
	for name, content := range files {
		for _, secret := range []string{aSecret, "IQoJtoken", "AKIAIOSFODNN7EXAMPLE", "MIIEsecret", "PRIVATE KEY", "ABCDEFHOSTID", "password"} {
			if strings.Contains(content, secret) {
				t.Errorf("%s has the secret %q: %s", name, secret, content)
			}
		}
	}
}

func TestBundleWithoutAPluginHasWhatIsThere(t *testing.T) {
	data := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(data, "state"), 0o700),
		os.WriteFile(filepath.Join(data, "state/volumes"), []byte("pgdata SecretAccessKey="+aSecret), 0o600)); err != nil {
		t.Fatal(err)
	}
	path, _ := bundled(t, data)
	files := unpacked(t, path)
	if got := files["state-volumes.txt"]; got != "pgdata SecretAccessKey=[redacted]" || !strings.Contains(files["doctor.txt"], "does not answer") || files["kernel.txt"] == "" {
		t.Errorf("%q", files)
	}
}

func TestBundleReplacesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	early, err := newArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer early.abandon()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newArchive(path); err == nil || !strings.Contains(err.Error(), "it exists") {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := early.write(nil); err == nil || !strings.Contains(err.Error(), "it exists") {
		t.Errorf("a name that was taken meanwhile: %v", err)
	}
	early.abandon()
	left, err := os.ReadDir(filepath.Dir(path))
	content, _ := os.ReadFile(path)
	if string(content) != "mine" || err != nil || len(left) != 1 {
		t.Errorf("%q is there, %v, %v", content, left, err)
	}
	if _, err := newArchive(filepath.Join(t.TempDir(), "none/report.tar.gz")); err == nil || !strings.Contains(err.Error(), "--bundle") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestDoctorsExitStatus(t *testing.T) {
	taken := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := doctor.Finding{Check: "port", Outcome: doctor.Failed, Found: "silent"}
	for _, row := range []struct {
		name string
		args []string
		want int
	}{
		{"all is well", []string{"--data", doctored(t)}, 0},
		{"something failed", []string{"--data", doctored(t, failed)}, exitTrouble},
		{"nothing answers", []string{"--data", t.TempDir()}, exitTrouble},
		{"an archive exists", []string{"--data", doctored(t), "--bundle", taken}, exitUsage},
		{"a flag is unknown", []string{"--dada", "x"}, exitUsage},
		{"an argument is too much", []string{"now"}, exitUsage},
	} {
		t.Run(row.name, func(t *testing.T) {
			exit := exitUsage
			command := doctorCommand(&exit)
			command.SetArgs(row.args)
			command.SilenceUsage, command.SilenceErrors = true, true
			if err := command.ExecuteContext(t.Context()); err == nil {
				exit = 0
			}
			if exit != row.want {
				t.Errorf("it is %d, want %d", exit, row.want)
			}
		})
	}
}
