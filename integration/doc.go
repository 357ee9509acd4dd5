// Package integration tests the product from outside, on hosts with real Docker
// Engines and a real NFSv4.1 server (package lab). Everything in it is behind the
// build tag "integration" and needs root:
//
//	go test -tags integration -count 1 ./integration
//
// LAB_SUITE chooses the Debian release of the hosts (trixie or bookworm).
package integration
