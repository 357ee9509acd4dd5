// Package proxy knows the mount targets of a file system: where they are, in
// which order to try them, and whether one answers NFS.
//
// A [Group] decides which of them is in use: it checks them, hears of trouble from
// those who move bytes, and tells them when to go elsewhere.
//
// It knows nothing of Docker, volumes or mounts, it moves no bytes, and it does
// not look targets up: it takes addresses. It keeps nothing on disk and starts no
// goroutine that outlives a call.
//
//	targets, err := proxy.ParseTargets("eu-west-1a=10.0.1.5,eu-west-1b=10.0.2.5")
//	for _, target := range proxy.HomeFirst(targets, "eu-west-1b") { … }
//
//	group := proxy.NewGroup(proxy.GroupOptions{Home: "eu-west-1b"}, targets)
//	go group.Run(ctx)
//	conn, target, err := group.Connect(ctx)
//
// All functions are safe for concurrent use.
package proxy
