package efs_test

import (
	"bytes"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

func containsAny(text string, words ...string) bool {
	for _, word := range words {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// openssl runs OpenSSL, which the mount helper makes its certificates with.
func openssl(t *testing.T, args ...string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), "openssl", args...)
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, &said)
	}
	return out
}

// key makes a host's key in a directory of the test's.
func key(t testing.TB) (private *rsa.PrivateKey, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key.pem")
	private, err := efs.LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return private, path
}

// opensslConfig is the mount helper's CA_CONFIG_BODY in our words: the same sections, for
// the values of one certificate.
func opensslConfig(dir, host, extensions string) string {
	return fmt.Sprintf(`[ca]
default_ca = here
[here]
dir = %[1]s
database = $dir/index.txt
serial = $dir/serial
new_certs_dir = $dir
private_key = $dir/../key.pem
default_md = sha256
preserve = no
policy = any
x509_extensions = asked
unique_subject = no
string_mask = utf8only
[any]
CN = supplied
[req]
prompt = no
distinguished_name = name
utf8 = yes
string_mask = utf8only
[name]
CN = %[2]s
[asked]
subjectKeyIdentifier = hash
%[3]s`, dir, host, extensions)
}

// TestCertificateIsTheMountHelpersToTheByte has OpenSSL make the same certificate with the
// same key: RSA's signature has no chance in it, so that nothing may differ.
func TestCertificateIsTheMountHelpersToTheByte(t *testing.T) {
	private, path := key(t)
	base := filepath.Dir(path)
	openssl(t, "rsa", "-in", path, "-RSAPublicKey_out", "-outform", "DER", "-out", filepath.Join(base, "public.der"))
	digest := strings.Fields(string(openssl(t, "dgst", "-sha1", "-r", filepath.Join(base, "public.der"))))
	hash := digest[0]
	for n, row := range []struct {
		name        string
		identity    efs.Identity
		credentials *efs.Credentials
		host        string
	}{
		{"TLS alone", efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "us-east-1"}, nil, "web-1"},
		{"an access point", efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "us-east-1", AccessPoint: "fsap-0123456789abcdef0"}, nil, "web-1"},
		{"a user's keys", efs.Identity{FileSystem: "fs-01234567", Region: "eu-west-1"}, &efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret}, "web-1"},
		{
			"a role and an access point",
			efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "us-east-1", AccessPoint: "fsap-0123456789abcdef0"},
			&efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret, SessionToken: "IQoJ/tok+en=="}, "web-1",
		},
		{"a long host name", efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "us-east-1"}, nil, strings.Repeat("ab", 50)},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := filepath.Join(base, fmt.Sprint(n))
			extensions := ""
			if row.identity.AccessPoint != "" {
				extensions += "1.3.6.1.4.1.4843.7.1 = ASN1:UTF8String:" + row.identity.AccessPoint + "\n"
			}
			sections := ""
			if c := row.credentials; c != nil {
				extensions += "1.3.6.1.4.1.4843.7.2 = ASN1:SEQUENCE:proof\n"
				signature := efs.Sign(*c, row.identity.FileSystem, row.identity.Region, hash, exampleTime)
				sections = "[proof]\na = UTF8String:" + c.AccessKeyID + "\nb = FORMAT:HEX,OCTETSTRING:" + hex.EncodeToString([]byte(signature)) +
					"\nc = UTCTIME:" + exampleTime.Format("060102150405Z") + "\n"
				if c.SessionToken != "" {
					sections += "d = EXPLICIT:0,UTF8String:" + c.SessionToken + "\n"
				}
			}
			extensions += "1.3.6.1.4.1.4843.7.3 = ASN1:UTF8String:" + row.identity.FileSystem + "\n" +
				"1.3.6.1.4.1.4843.7.4 = ASN1:SEQUENCE:client\n[client]\na = UTF8String:docker-volume-efs\nb = UTF8String:3.2.0\n" + sections
			for name, text := range map[string]string{
				"config": opensslConfig(dir, row.host[:min(64, len(row.host))], extensions), "index.txt": "", "serial": fmt.Sprintf("%02x\n", n),
			} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			config := filepath.Join(dir, "config")
			openssl(t, "req", "-new", "-config", config, "-key", path, "-out", filepath.Join(dir, "request"))
			openssl(t, "ca", "-batch", "-selfsign", "-config", config, "-keyfile", path, "-in", filepath.Join(dir, "request"), "-notext",
				"-startdate", exampleTime.Add(-15*time.Minute).Format("060102150405Z"), "-enddate", exampleTime.Add(3*time.Hour).Format("060102150405Z"),
				"-out", filepath.Join(dir, "certificate"))
			want := openssl(t, "x509", "-in", filepath.Join(dir, "certificate"), "-outform", "DER")

			got, err := efs.NewCertificate(private, row.identity, row.credentials, row.host, int64(n), exampleTime.Add(300*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Certificate[0], want) {
				mine := filepath.Join(dir, "mine")
				if err := os.WriteFile(mine, got.Certificate[0], 0o600); err != nil {
					t.Fatal(err)
				}
				t.Errorf("got\n%s\nwant\n%s", openssl(t, "asn1parse", "-inform", "DER", "-in", mine), openssl(t, "asn1parse", "-in", filepath.Join(dir, "certificate")))
			}
		})
	}
}

func BenchmarkCertificate(b *testing.B) {
	private, _ := key(b)
	id := efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "us-east-1", AccessPoint: "fsap-0123456789abcdef0"}
	credentials := &efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret, SessionToken: "token"}
	for b.Loop() {
		if _, err := efs.NewCertificate(private, id, credentials, "web-1", 0, exampleTime); err != nil {
			b.Fatal(err)
		}
	}
}
