package efs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"time"
)

// Credentials are an IAM identity's keys. They print as their key id alone.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // "" of a user's own keys
}

// String names the identity and no secret.
func (c Credentials) String() string { return c.AccessKeyID }

// GoString is String: %#v prints no secret either.
func (c Credentials) GoString() string { return c.AccessKeyID }

const (
	service = "elasticfilesystem"
	// validity is what the mount helper asks for: EFS looks at the certificate's own.
	validity = "86400"
	// emptyHash is the SHA-256 of no bytes: the request has no body.
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// sign proves that whoever has the public key has the credentials: Signature Version 4 of
// a request that is never sent, as the mount helper makes it.
func sign(c Credentials, fileSystem, region, keyHash string, now time.Time) string {
	now = now.UTC()
	scope := now.Format("20060102") + "/" + region + "/" + service + "/aws4_request"
	request := sha256.Sum256([]byte(canonicalRequest(c, fileSystem, scope, keyHash, now)))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", now.Format(signatureTime), scope, hex.EncodeToString(request[:])}, "\n")
	key := []byte("AWS4" + c.SecretAccessKey)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text))
}

const signatureTime = "20060102T150405Z"

// canonicalRequest differs from what Signature Version 4 says elsewhere: no empty line ends
// the headers. A signer from a library makes what EFS refuses.
func canonicalRequest(c Credentials, fileSystem, scope, keyHash string, now time.Time) string {
	query := url.Values{
		"Action":              {"Connect"},
		"PublicKeyHash":       {keyHash},
		"X-Amz-Algorithm":     {"AWS4-HMAC-SHA256"},
		"X-Amz-Credential":    {c.AccessKeyID + "/" + scope},
		"X-Amz-Date":          {now.Format(signatureTime)},
		"X-Amz-Expires":       {validity},
		"X-Amz-SignedHeaders": {"host"},
	}
	if c.SessionToken != "" {
		query.Set("X-Amz-Security-Token", c.SessionToken)
	}
	return strings.Join([]string{"GET", "/", query.Encode(), "host:" + fileSystem, "host", emptyHash}, "\n")
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
