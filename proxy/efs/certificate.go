package efs

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // a key's identifier (RFC 5280 section 4.2.1.2), as EFS wants it
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"
)

// Identity is what a transport says of itself in its certificate.
type Identity struct {
	FileSystem  string // fs-…
	AccessPoint string // fsap-…, or ""
	Region      string
}

// Object identifiers of what EFS reads in a certificate; 4843 is Amazon's arc
// (CA_CONFIG_BODY in the mount helper).
//
//nolint:gochecknoglobals // constants, which Go has not for slices
var (
	oidSubjectKeyID = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidAccessPoint  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 1}
	oidClientAuth   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 2}
	oidFileSystem   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 3}
	oidClientInfo   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 4}
)

// clientAuth is the proof of an IAM identity.
type clientAuth struct {
	AccessKeyID  string    `asn1:"utf8"`
	Signature    []byte    // its hexadecimal digits
	Time         time.Time `asn1:"utc"`
	SessionToken string    `asn1:"optional,explicit,tag:0,utf8"`
}

// clientInfo tells EFS which program connects, in at most 100 bytes, and by whose format.
type clientInfo struct {
	Source  string `asn1:"utf8"`
	Version string `asn1:"utf8"`
}

const (
	source = "docker-volume-efs"
	// formatVersion is the mount helper's whose format this is.
	formatVersion = "3.2.0"

	// The mount helper's: a clock may go 15 minutes wrong, and a connection needs the
	// certificate only while it is made.
	notBefore = -15 * time.Minute
	notAfter  = 3 * time.Hour
	// maxCommonName is ub-common-name of RFC 5280 appendix A.1.
	maxCommonName = 64
)

// newCertificate makes the certificate of one connection. credentials may be nil: then it
// proves no IAM identity.
func newCertificate(key *rsa.PrivateKey, id Identity, credentials *Credentials, host string, serial int64, now time.Time) (tls.Certificate, error) {
	now = now.UTC().Truncate(time.Second)
	keyID := sha1.Sum(x509.MarshalPKCS1PublicKey(&key.PublicKey)) //nolint:gosec // see above
	extensions, err := id.extensions(keyID[:], credentials, now)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	subject, err := commonName(host)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:       big.NewInt(serial),
		RawSubject:         subject,
		NotBefore:          now.Add(notBefore),
		NotAfter:           now.Add(notAfter),
		SignatureAlgorithm: x509.SHA256WithRSA,
		ExtraExtensions:    extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// extensions are in the mount helper's order.
func (id Identity) extensions(keyID []byte, credentials *Credentials, now time.Time) ([]pkix.Extension, error) {
	var all []pkix.Extension
	var failed error
	add := func(oid asn1.ObjectIdentifier, value any, params string) {
		data, err := asn1.MarshalWithParams(value, params)
		if err != nil {
			failed = err
		}
		all = append(all, pkix.Extension{Id: oid, Value: data})
	}
	add(oidSubjectKeyID, keyID, "")
	if id.AccessPoint != "" {
		add(oidAccessPoint, id.AccessPoint, "utf8")
	}
	if credentials != nil {
		signature := sign(*credentials, id.FileSystem, id.Region, hex.EncodeToString(keyID), now)
		add(oidClientAuth, clientAuth{credentials.AccessKeyID, []byte(signature), now, credentials.SessionToken}, "")
	}
	add(oidFileSystem, id.FileSystem, "utf8")
	add(oidClientInfo, clientInfo{source, formatVersion}, "")
	return all, failed
}

// commonName encodes a name as OpenSSL does, as UTF8String where [pkix.Name] prefers
// PrintableString.
func commonName(host string) ([]byte, error) {
	if len(host) > maxCommonName {
		host = host[:maxCommonName]
	}
	value, err := asn1.MarshalWithParams(host, "utf8")
	if err != nil {
		return nil, err
	}
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type relativeName []attribute
	set, err := asn1.MarshalWithParams(relativeName{{oidCommonName, asn1.RawValue{FullBytes: value}}}, "set")
	if err != nil {
		return nil, err
	}
	return asn1.Marshal([]asn1.RawValue{{FullBytes: set}})
}
