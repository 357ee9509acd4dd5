package plugin

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// settingRows are all settings: values that work and what they do, and values
// that do not.
var settingRows = []struct {
	name  string
	valid map[string]string // value to effect
	wrong []string
	says  string // what is allowed instead
}{
	{
		"EFS_FILESYSTEM",
		map[string]string{
			"fs-0123456789abcdef0":                             "fs-0123456789abcdef0",
			"fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com": "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com",
			" nfs://10.77.0.11/export\n":                       "nfs://10.77.0.11/export",
			"nfs://[2001:db8::1]:2050/":                        "nfs://[2001:db8::1]:2050/",
			"dir:/srv/volumes/":                                "dir:/srv/volumes",
			"dir:":                                             "dir:",
			"eu-west-1a.fs-01234567.efs.eu-west-1.amazonaws.com.cn": "eu-west-1a.fs-01234567.efs.eu-west-1.amazonaws.com.cn",
		},
		[]string{"fs-xyz", "/export", "10.0.0.1:/export", "nfs://", "nfs://host:99999/x", "http://host/x", "dir:relative", "dir:/", "dir:/a/../b", "efs"},
		"allowed: fs-…",
	},
	{"EFS_ROOT", map[string]string{"/apps": "/apps", "/": "/", "/apps//web/": "/apps/web"}, []string{"apps", "/apps/../..", "/a\x01b", "/" + strings.Repeat("x", 300)}, "path"},
	{"EFS_VIA", map[string]string{"auto": "auto", "direct": "direct", "relay": "relay"}, []string{"DIRECT", "both"}, "allowed: auto, direct, relay"},
	{"EFS_ZONE", map[string]string{"eu-central-1a": "eu-central-1a"}, []string{"two words", "a=b", "a,b", "é", strings.Repeat("z", 64)}, "allowed: the name"},
	{
		"EFS_TARGETS",
		map[string]string{
			"a=10.0.0.1":                       "[a=10.0.0.1:2049]",
			"a=10.0.0.1:2050, b=[2001:db8::1]": "[a=10.0.0.1:2050 b=[2001:db8::1]:2049]",
		},
		[]string{"10.0.0.1", "a=host.example", "a=10.0.0.1:0", "a=10.0.0.1,a=10.0.0.2", "a=10.0.0.1:99999", "=10.0.0.1"},
		"zone",
	},
	{"EFS_RETURN", map[string]string{"sticky": "sticky", "home": "home"}, []string{"Home", "back", "10m"}, "allowed: sticky, home"},
	{"EFS_TLS", map[string]string{"off": "false", "on": "true", "true": "true"}, []string{"maybe", "required", "1.3"}, "allowed: on, off"},
	{"EFS_IAM", map[string]string{"off": "false", "0": "false", "on": "true"}, []string{"role", "arn:aws:iam::123456789012:role/x"}, "allowed: on, off"},
	{"EFS_ACCESS_POINT", map[string]string{"fsap-0123456789abcdef0": "fsap-0123456789abcdef0"}, []string{"fsap-xyz", "create", "fs-0123456789abcdef0", "/apps"}, "allowed: the id of an access point"},
	{"EFS_CA_FILE", map[string]string{"../proxy/efs/roots.pem": "true"}, []string{"/nonexistent/ca.pem", "settings_test.go"}, "EFS_CA_FILE"},
	{"EFS_ACCESS", map[string]string{"shared": "shared", "exclusive": "exclusive"}, []string{"private", "Exclusive"}, "allowed: shared, exclusive"},
	{"EFS_REMOVE", map[string]string{"keep": "keep", "trash": "trash", "delete": "delete"}, []string{"Trash", "rm -rf"}, "allowed: keep, trash, delete"},
	{"EFS_TRASH_KEEP", map[string]string{"forever": "0s", "30d": "720h0m0s", "12h": "12h0m0s"}, []string{"never", "0d", "30m", "-1h", "30 d", "99999999d"}, "such as 30d"},
	{
		"EFS_HTTP",
		map[string]string{
			"127.0.0.1:9199": "127.0.0.1:9199", " [::1]:9100 ": "[::1]:9100", "0.0.0.0:9199": "0.0.0.0:9199",
			"localhost:9199": "127.0.0.1:9199", "[fe80::1%eth0]:9100": "[fe80::1%eth0]:9100", "off": "invalid AddrPort",
		},
		[]string{"on", "9100", ":9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", "localhost", "localhost:http", "example.com:9100", "http://127.0.0.1:9199", "[::1:9100"},
		"such as 127.0.0.1:9199",
	},
	{"EFS_LOG_LEVEL", map[string]string{"debug": "debug", "info": "info", "warn": "warning", "error": "error"}, []string{"trace", "INFO", "7", "panic"}, "allowed: debug, info, warn, error"},
	{"AWS_REGION", map[string]string{"eu-central-1": "eu-central-1", "us-gov-west-1": "us-gov-west-1"}, []string{"Frankfurt", "eu_central", "eu-central-1.evil.example", "-eu"}, "allowed: the name"},
}

// effect reads out of the settings what the one of that name has done.
func effect(s Settings, name string) string {
	switch name {
	case "EFS_FILESYSTEM":
		return s.Driver.FileSystem.String()
	case "EFS_ROOT":
		return s.Driver.Root
	case "EFS_VIA":
		return s.Driver.Volume.Via
	case "EFS_ZONE":
		return s.Driver.Zone
	case "EFS_TARGETS":
		return fmt.Sprint(s.Driver.Targets)
	case "EFS_RETURN":
		return s.Driver.Return.String()
	case "EFS_ACCESS":
		return s.Driver.Volume.Access
	case "EFS_REMOVE":
		return s.Driver.Volume.Remove
	case "EFS_TRASH_KEEP":
		return s.Driver.TrashKeep.String()
	case "EFS_HTTP":
		return s.HTTP.String()
	case "EFS_LOG_LEVEL":
		return s.LogLevel.String()
	case "EFS_TLS":
		return strconv.FormatBool(s.Driver.Volume.TLS)
	case "EFS_IAM":
		return strconv.FormatBool(s.Driver.Volume.IAM && s.Driver.Volume.TLS)
	case "EFS_ACCESS_POINT":
		return s.Driver.AccessPoint
	case "EFS_CA_FILE":
		return strconv.FormatBool(s.Driver.Roots != nil)
	case "AWS_REGION":
		return s.Driver.Region
	}
	return ""
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		if i := slices.Index(pairs, name); i >= 0 {
			return pairs[i+1]
		}
		return ""
	}
}

func TestSettingsThatAreValid(t *testing.T) {
	for _, row := range settingRows {
		for value, want := range row.valid {
			pairs := []string{row.name, value}
			if row.name != "EFS_FILESYSTEM" {
				pairs = append(pairs, "EFS_FILESYSTEM", "fs-0123456789abcdef0") // some are for EFS alone
			}
			s := ReadSettings(environment(pairs...))
			if s.Driver.Misconfigured != nil {
				t.Errorf("%s=%q: %v", row.name, value, s.Driver.Misconfigured)
			}
			if got := effect(s, row.name); got != want {
				t.Errorf("%s=%q has the effect %q, want %q", row.name, value, got, want)
			}
		}
	}
}

func TestSettingsThatAreWrongSaySo(t *testing.T) {
	for _, row := range settingRows {
		for _, value := range row.wrong {
			err := ReadSettings(environment(row.name, value)).Driver.Misconfigured
			if err == nil {
				t.Errorf("%s=%q is taken", row.name, value)
				continue
			}
			text := err.Error()
			for _, want := range []string{fmt.Sprintf("setting %s=%q", row.name, value), row.says, "docker plugin set"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s=%q: %q does not say %q", row.name, value, text, want)
				}
			}
			if strings.ContainsAny(text, "\r\n\x00\x1b\x01") || len(text) > 1000 {
				t.Errorf("%s=%q: not one short line: %q", row.name, value, text)
			}
		}
	}
}

func TestSettingsThatContradictEachOther(t *testing.T) {
	const efs = "fs-0123456789abcdef0"
	for _, row := range []struct {
		name, want string
		pairs      []string
	}{
		{"TLS to an NFS server", "for EFS file systems", []string{"EFS_TLS", "on", "EFS_FILESYSTEM", "nfs://10.0.0.1/e"}},
		{"IAM to a local directory", "for EFS file systems", []string{"EFS_IAM", "on"}},
		{"an access point of a local directory", "for EFS file systems", []string{"EFS_ACCESS_POINT", "fsap-0123456789abcdef0"}},
		{"TLS without a relay", "set EFS_VIA=auto", []string{"EFS_TLS", "on", "EFS_FILESYSTEM", efs, "EFS_VIA", "direct"}},
		{"an access point without a relay", "set EFS_VIA=auto", []string{"EFS_ACCESS_POINT", "fsap-0123456789abcdef0", "EFS_FILESYSTEM", efs, "EFS_VIA", "direct"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := ReadSettings(environment(row.pairs...)).Driver.Misconfigured; err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
		})
	}
}

func TestAllWrongSettingsAreNamedAtOnce(t *testing.T) {
	s := ReadSettings(environment("EFS_REMOVE", "burn", "EFS_ROOT", "apps", "EFS_FILESYSTEM", "nfs://10.0.0.1/e"))
	for _, want := range []string{`EFS_REMOVE="burn"`, `EFS_ROOT="apps"`} {
		if s.Driver.Misconfigured == nil || !strings.Contains(s.Driver.Misconfigured.Error(), want) {
			t.Errorf("%v does not name %s", s.Driver.Misconfigured, want)
		}
	}
	if got := s.Driver.FileSystem.String(); got != "nfs://10.0.0.1/e" {
		t.Errorf("the one that is right was not read: %s", got)
	}
}

// After docker plugin upgrade the settings are those of the old version: new ones
// are not in the environment at all.
func TestRule11DefaultsLiveInCode(t *testing.T) {
	var asked []string
	unset := ReadSettings(func(name string) string {
		asked = append(asked, name)
		return ""
	})
	var rows []string
	for _, row := range settingRows {
		rows = append(rows, row.name)
		if blank := ReadSettings(environment(row.name, " \t\n")); effect(blank, row.name) != effect(unset, row.name) || blank.Driver.Misconfigured != nil {
			t.Errorf("%s: blank is not the default", row.name)
		}
	}
	if !slices.Equal(asked, rows) {
		t.Errorf("the settings are %v, this file tests %v", asked, rows)
	}
	if unset.Driver.Misconfigured != nil || unset.LogLevel != logrus.InfoLevel || unset.Driver.FileSystem.String() != "dir:" {
		t.Errorf("the defaults are %+v", unset)
	}
}

// The order of the targets is the operator's, the zone's own comes first when
// it is mounted.
func TestTargetsAreKeptInOrder(t *testing.T) {
	s := ReadSettings(environment("EFS_TARGETS", "b=10.0.0.2,a=10.0.0.1", "EFS_ZONE", "a"))
	want := []proxy.Target{
		{Zone: "b", Addr: netip.MustParseAddrPort("10.0.0.2:2049")},
		{Zone: "a", Addr: netip.MustParseAddrPort("10.0.0.1:2049")},
	}
	if !slices.Equal(s.Driver.Targets, want) || s.Driver.Zone != "a" {
		t.Errorf("got %v, zone %s", s.Driver.Targets, s.Driver.Zone)
	}
}

func TestCredentialsAreInNoErrorAndNoSetting(t *testing.T) {
	secrets := map[string]string{
		"AWS_ACCESS_KEY_ID":     "AKIAIOSFODNN7EXAMPLE",
		"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		"AWS_SESSION_TOKEN":     "IQoJb3JpZ2luX2VjEXAMPLE",
	}
	s := ReadSettings(func(name string) string {
		if secret, ok := secrets[name]; ok {
			return secret
		}
		for _, row := range settingRows {
			if row.name == name && len(row.wrong) > 0 {
				return row.wrong[0]
			}
		}
		return ""
	})
	text := fmt.Sprintf("%+v", s)
	for name, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s is in %s", name, text)
		}
	}
	// A password in a URL is no setting of ours, and still nobody's business.
	err := ReadSettings(environment("EFS_FILESYSTEM", "nfs://user:hunter2@10.0.0.1/export")).Driver.Misconfigured
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a URL with a password: %v", err)
	}
}
