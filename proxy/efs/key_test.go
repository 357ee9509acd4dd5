package efs_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:4])
}

func TestLoadKey(t *testing.T) {
	first, path := key(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := efs.LoadKey(path); err != nil || !again.Equal(first) {
		t.Errorf("the key changes, %v", err)
	}
	for _, row := range []struct{ name, content string }{
		{"an empty file", ""},
		{"half a key", string(must(os.ReadFile(path)))[:500]},
		{"something else in PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
		{"a smaller key", string(openssl(t, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"))},
	} {
		t.Run(row.name+" is replaced", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, []byte(row.content), 0o600); err != nil {
				t.Fatal(err)
			}
			made, err := efs.LoadKey(path)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := efs.LoadKey(path); err != nil || !again.Equal(made) {
				t.Errorf("the key changes, %v", err)
			}
			if left := must(os.ReadDir(filepath.Dir(path))); len(left) != 1 {
				t.Errorf("left: %v", left)
			}
		})
	}
	t.Run("an error names the file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "missing", "key.pem")
		if _, err := efs.LoadKey(path); err == nil || !strings.Contains(err.Error(), "missing") {
			t.Errorf("error %v", err)
		}
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestNames(t *testing.T) {
	for _, row := range []struct{ region, want string }{
		{"eu-west-1", "fs-1.efs.eu-west-1.amazonaws.com"},
		{"us-gov-west-1", "fs-1.efs.us-gov-west-1.amazonaws.com"},
		{"cn-north-1", "fs-1.efs.cn-north-1.amazonaws.com.cn"},
		{"eusc-de-east-1", "fs-1.efs.eusc-de-east-1.amazonaws.eu"},
		{"us-iso-east-1", "fs-1.efs.us-iso-east-1.c2s.ic.gov"},
		{"us-isob-east-1", "fs-1.efs.us-isob-east-1.sc2s.sgov.gov"},
		{"us-isof-south-1", "fs-1.efs.us-isof-south-1.csp.hci.ic.gov"},
		{"eu-isoe-west-1", "fs-1.efs.eu-isoe-west-1.cloud.adc-e.uk"},
	} {
		name := efs.ServerName("fs-1", row.region)
		if name != row.want || efs.RegionOf(name) != row.region || efs.RegionOf("zone."+name) != row.region {
			t.Errorf("%s: %s, back %q", row.region, name, efs.RegionOf(name))
		}
	}
	for _, name := range []string{"", "nfs.example.com", "fs-1.efs.eu-west-1.example.com", "fs-1.efs."} {
		if got := efs.RegionOf(name); got != "" {
			t.Errorf("%q is in region %q", name, got)
		}
	}
	for zone, want := range map[string]bool{"euw1-az2": true, "use1-az10": true, "usgw1-az1": true, "usw2-lax1-az1": true, "eu-west-1a": false, "a": false, "": false} {
		if efs.IsZoneID(zone) != want {
			t.Errorf("%q is taken for an id: %v", zone, !want)
		}
	}
	for id, want := range map[string]bool{"fsap-0123456789abcdef0": true, "fsap-01234567": true, "fsap-": false, "fs-0123456789abcdef0": false, "fsap-0123456789ABCDEF0": false, "xfsap-0123456789abcdef0": false} {
		if efs.IsAccessPoint(id) != want {
			t.Errorf("%q is taken for an access point: %v", id, !want)
		}
	}
}
