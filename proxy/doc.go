// Package proxy knows the mount targets of a file system: where they are, in
// which order to try them, and whether one answers NFS.
//
// It knows nothing of Docker, volumes or mounts, and it does not look targets
// up: it takes addresses. It keeps no state and starts no goroutine that
// outlives a call.
//
//	targets, err := proxy.ParseTargets("eu-west-1a=10.0.1.5,eu-west-1b=10.0.2.5")
//	for _, target := range proxy.HomeFirst(targets, "eu-west-1b") { … }
//
// All functions are safe for concurrent use.
package proxy
