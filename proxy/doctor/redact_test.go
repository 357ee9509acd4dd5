package doctor_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

func TestRedactedTextHasNo(t *testing.T) {
	const secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // AWS's documentation has it
	environ := []string{"AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=" + secret + "AndMore", "AWS_PROFILE=default", "AWS_SOMETHING_NEW=brandnew", "HTTPS_PROXY=http://me:p/word@proxy:3128"}
	for _, row := range []struct{ what, text, want string }{
		{"value of a secret variable", "the key " + secret + " leaks", "the key [redacted] leaks"},
		{"value of which another is the beginning", secret + "AndMore!", "[redacted]!"},
		{"value of a variable that nobody knows yet", "x=brandnew", "x=[redacted]"},
		{"password in a URL", "proxy http://user:pass@proxy:3128/", "proxy http://[redacted]@proxy:3128/"},
		{"password of the proxy", "proxyconnect me:p/word@proxy", "proxyconnect [redacted]@proxy"},
		{"token in a URL", "GET /?X-Amz-Security-Token=IQoJ%2Fx&Action=y", "GET /?X-Amz-Security-Token=[redacted]&Action=y"},
		{"key in an answer", `{"SecretAccessKey" : "abc/def", "Code":"Success"}`, `{"SecretAccessKey" : "[redacted]", "Code":"Success"}`},
		{"key in an answer that a log quotes", `msg="{\"SessionToken\":\"abc\"}"`, `msg="{\"SessionToken\":\"[redacted]\"}"`},
		{"line of a credentials file", "aws_secret_access_key = abcdef", "aws_secret_access_key = [redacted]"},
		{"header that proves who asks", "Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y", "Authorization: AWS4-HMAC-SHA256 [redacted]"},
		{"private key", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest", "-----BEGIN PRIVATE KEY-----[redacted]-----END PRIVATE KEY-----\nrest"},
		{"private key that is cut off", "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "-----BEGIN RSA PRIVATE KEY-----[redacted]"},
		{"whole key id", "AKIAIOSFODNN7EXAMPLE", "AKIA…MPLE"},
		{"word less", "fs-0123456789abcdef0 in the default zone", "fs-0123456789abcdef0 in the default zone"},
	} {
		t.Run(row.what, func(t *testing.T) {
			if got := doctor.NewRedactor(environ).Text(row.text); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestSettingsAreShownWithoutSecrets(t *testing.T) {
	environ := []string{
		"EFS_FILESYSTEM=nfs://me:word@host/x", "EFS_ROOT=", "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=abcdefgh",
		"AWS_SESSION_TOKEN=", "AWS_ENDPOINT_URL_STS=http://moto:5000", "AWS_EC2_METADATA_DISABLED=true", "AWS_PROFILE=mine", "PATH=/bin",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN=Bearer abcdefgh", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/id", "HTTPS_PROXY=me:word@proxy:3128", "NO_PROXY=10.0.0.0/8",
	}
	const want = `AWS_ACCESS_KEY_ID set
AWS_CONTAINER_AUTHORIZATION_TOKEN set
AWS_CONTAINER_CREDENTIALS_RELATIVE_URI set
AWS_EC2_METADATA_DISABLED = true
AWS_ENDPOINT_URL_STS = http://moto:5000
AWS_PROFILE set
AWS_REGION = eu-west-1
AWS_SECRET_ACCESS_KEY set
AWS_SESSION_TOKEN not set
EFS_FILESYSTEM = nfs://[redacted]@host/x
EFS_ROOT not set
HTTPS_PROXY = [redacted]@proxy:3128
NO_PROXY = 10.0.0.0/8
`
	if got := doctor.NewRedactor(environ).Settings(environ, "EFS_", "AWS_", "HTTPS_PROXY", "NO_PROXY"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestArchiveUnpacksToOneDirectory(t *testing.T) {
	var packed bytes.Buffer
	if err := doctor.WriteArchive(&packed, []doctor.File{{"doctor.txt", "fine\n"}, {"../../evil", "x"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	opened, err := gzip.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for archive := tar.NewReader(opened); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
	if got := strings.Join(names, " "); got != "docker-volume-efs-doctor/doctor.txt docker-volume-efs-doctor/evil" {
		t.Errorf("it has %s", got)
	}
}
