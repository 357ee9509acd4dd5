// Package nfs holds the NFS client options of a mount: AWS's for EFS as
// defaults, and an allow-list of what a volume may change.
//
// It only makes and checks options; it does not mount. What could lose or
// corrupt data (soft mounts, no close-to-open consistency) or what EFS does not
// support (nconnect, pNFS, other versions) cannot be asked for.
//
//	options, err := nfs.ParseOptions("acregmax=10,timeo=300")
//
// All functions are safe for concurrent use.
package nfs
