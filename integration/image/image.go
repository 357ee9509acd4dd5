// Package image holds the scripts that build the disk of a test host, so that a
// program carries them wherever it runs and can tell by their content whether a
// disk built earlier is still the right one. It does not run them: package lab
// does.
package image

import "embed"

// Files are the scripts and everything they copy. An embedded file has
// no mode: run the scripts with sh.
//
//go:embed bootstrap.sh build.sh packages.sh peers.sh initrd-init guest postgres
var Files embed.FS
