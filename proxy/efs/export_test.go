package efs

import (
	"crypto/rsa"
	"crypto/tls"
	"time"
)

// Sign is sign, for the vectors.
func Sign(c Credentials, fileSystem, region, keyHash string, now time.Time) string {
	return sign(c, fileSystem, region, keyHash, now)
}

// CanonicalRequest is canonicalRequest, for the vectors.
func CanonicalRequest(c Credentials, fileSystem, scope, keyHash string, now time.Time) string {
	return canonicalRequest(c, fileSystem, scope, keyHash, now)
}

// NewCertificate is newCertificate, for a comparison at a fixed time.
func NewCertificate(key *rsa.PrivateKey, id Identity, credentials *Credentials, host string, serial int64, now time.Time) (tls.Certificate, error) {
	return newCertificate(key, id, credentials, host, serial, now)
}

// RootsPEM are the authorities as they are in the binary.
func RootsPEM() []byte { return amazonRoots }
