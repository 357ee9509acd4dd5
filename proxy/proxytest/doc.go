// Package proxytest has the mount targets that tests need, in clear text and behind TLS: they
// listen on loopback, answer NFS's NULL call, and say anything else again.
package proxytest
