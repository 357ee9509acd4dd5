//go:build integration

package integration

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// finding and report are what doctor prints as JSON.
type finding struct {
	Check, Outcome, Found, Why, Do string
}

type report struct {
	Healthy  bool
	Findings []finding
}

// doctor runs the command on the host, as an operator does.
func (s *efsSite) doctor(args string) (text string, status string) {
	s.t.Helper()
	out := run(s.t, s.h, "d="+s.data()+"; $d/../rootfs/docker-volume-efs doctor --data $d "+args+"; echo $?")
	out = strings.TrimSpace(out)
	i := strings.LastIndexByte(out, '\n')
	return out[:max(i, 0)], out[i+1:]
}

// findings are what doctor says to programs.
func (s *efsSite) findings(wantStatus string) report {
	s.t.Helper()
	text, status := s.doctor("--json")
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil || status != wantStatus || r.Healthy != (status == "0") {
		s.t.Fatalf("exit status %s, want %s, %v: %s", status, wantStatus, err, text)
	}
	return r
}

// wantFinding looks for a check that ended so and says that.
func (s *efsSite) wantFinding(r report, check string, outcome string, says ...string) {
	s.t.Helper()
	var seen []finding
	for _, f := range r.Findings {
		text := strings.Join([]string{f.Found, f.Why, f.Do}, " ")
		if f.Check != check {
			continue
		}
		if f.Outcome == outcome && !slices.ContainsFunc(says, func(word string) bool { return !strings.Contains(text, word) }) {
			return
		}
		seen = append(seen, f)
	}
	s.t.Errorf("no %s of %q that says %q, but %+v", outcome, check, says, seen)
}

func (s *efsSite) testDoctor(t *testing.T) {
	s.set("EFS_IAM=on", "EFS_TLS=on")
	s.mustCreate("examined")
	s.part("all is well", func(t *testing.T) {
		r := s.findings("0")
		for _, check := range []string{
			"plugin", "settings", "kernel NFS", "region and zone", "mount targets", "DNS", "port", "TLS", "identity", "access", "catalogue", "clock", "write test", "latency", "sessions",
		} {
			s.wantFinding(r, check, "ok")
		}
		s.wantFinding(r, "identity", "ok", "arn:aws:sts::")
		s.wantFinding(r, "region and zone", "ok", awsRegion+"b")
		if text, status := s.doctor(""); status != "0" || strings.Contains(text, "FAIL") || !strings.Contains(text, "write test") {
			t.Errorf("exit status %s: %s", status, text)
		}
	})
	for _, row := range []struct {
		name         string
		change, back func()
		check        string
		outcome      string
		says         []string
	}{
		{"no mount target listens", s.front.Stop, s.startFrontAgain, "port", "failed", []string{"refused", "2049"}},
		{
			"an identity that the policy does not let in", func() { s.rules(efsRules{Denied: []string{"ASIA"}, AccessPoints: s.points}); s.set("EFS_IAM=on") },
			func() { s.rules(efsRules{AccessPoints: s.points}) }, "access", "failed",
			[]string{"access denied to arn:aws:sts::", "elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess", s.id},
		},
		{
			"a clock ten minutes ahead", func() { run(s.t, s.h, "date -s '+10 min'") }, func() { run(s.t, s.h, "date -s '-10 min'") }, "clock", "failed",
			[]string{"ahead of AWS's", "chrony"},
		},
		{
			"metadata that hangs", func() { s.write("metadata/hang", ""); s.set("EFS_IAM=on") },
			func() { _ = os.Remove(filepath.Join(s.dir, "metadata/hang")) }, "identity", "failed", nil,
		},
	} {
		s.part(row.name, func(*testing.T) {
			row.change()
			defer row.back()
			s.wantFinding(s.findings("1"), row.check, row.outcome, row.says...)
		})
	}
	s.set("EFS_IAM=on", "EFS_TLS=on")
	s.part("the archive", s.testArchive)
	s.part("the plugin is not enabled", func(t *testing.T) {
		run(t, s.h, "docker plugin disable -f "+efsPlugin)
		defer run(t, s.h, "docker plugin enable "+efsPlugin)
		r := s.findings("1")
		s.wantFinding(r, "plugin", "failed", "does not answer", "docker plugin enable")
		s.wantFinding(r, "kernel NFS", "ok")
	})
	s.mustRemove("examined")
}

// testArchive looks for what only the host and AWS may know in what an operator gives away.
func (s *efsSite) testArchive(t *testing.T) {
	run(t, s.h, "docker run -d --name examined --network none -v examined:/data busybox sleep 1h")
	defer run(t, s.h, "docker rm -f examined")
	if _, status := s.doctor("--bundle /root/report.tar.gz"); status != "0" {
		t.Fatalf("exit status %s", status)
	}
	if text, status := s.doctor("--bundle /root/report.tar.gz 2>&1"); status != "2" || !strings.Contains(text, "exists") {
		t.Errorf("a second one: exit status %s: %s", status, text)
	}
	unpacked, err := gzip.NewReader(strings.NewReader(run(t, s.h, "cat /root/report.tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
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
	for _, name := range []string{"doctor.txt", "doctor.json", "status.json", "settings.txt", "state-volumes.txt", "mounts.txt", "kernel.txt", "version.txt", "log.txt"} {
		if files[name] == "" {
			t.Errorf("%s is not in the archive, or empty", name)
		}
	}
	for name, content := range files {
		for _, secret := range []string{"secret-of-", "token-of-", "PRIVATE KEY"} {
			if strings.Contains(content, secret) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
	run(t, s.h, "rm /root/report.tar.gz")
}
