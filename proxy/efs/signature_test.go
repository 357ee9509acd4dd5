package efs_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// The example of AWS's documentation; it opens nothing.
const (
	exampleID     = "AKIDEXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // see above
)

var exampleTime = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// The vectors were made with the mount helper's own functions.
func TestSignature(t *testing.T) {
	const hash = "00112233445566778899aabbccddeeff00112233"
	for _, row := range []struct{ name, token, request, signature string }{
		{
			"of a user's own keys", "",
			"f947758f3f9804da901a9946138dc46fdf06ca9b9ee67a7feb4496337c8779c3",
			"125a91ace030f1f288a07c104d8b32bd3fc53195bb1c329a29851d30458a563b",
		},
		{
			"of a role", "IQoJ/tok+en==",
			"e2d574154985708603388e280bc9d10e7ad520fb5dfbb47a8f03a74dd7439b6e",
			"7ffed70827ff38b499c28534b75baade8b4938d1fd26ed24c898a9c338009738",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret, SessionToken: row.token}
			request := efs.CanonicalRequest(c, "fs-0123456789abcdef0", "20240102/us-east-1/elasticfilesystem/aws4_request", hash, exampleTime)
			if got := sha256.Sum256([]byte(request)); hex.EncodeToString(got[:]) != row.request {
				t.Errorf("the canonical request has another hash:\n%s", request)
			}
			if got := efs.Sign(c, "fs-0123456789abcdef0", "us-east-1", hash, exampleTime.In(time.FixedZone("", 3600))); got != row.signature {
				t.Errorf("got  %s\nwant %s", got, row.signature)
			}
		})
	}
}

func TestCredentialsPrintNoSecret(t *testing.T) {
	c := efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret, SessionToken: "token"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{c, &c, []efs.Credentials{c}, struct{ C efs.Credentials }{c}} {
			if got := fmt.Sprintf(format, value); containsAny(got, exampleSecret, "token") {
				t.Errorf("%s prints %s", format, got)
			}
		}
	}
}
