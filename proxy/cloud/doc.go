// Package cloud asks AWS: where a file system's mount targets are, in which region and zone
// this host is, which IAM identity it has, and for access points.
//
// Nothing of it is ever in the path of a mount: callers ask in the background, keep what
// they hear, and live with an answer that does not come. Each call ends with its context.
// Nothing is asked before it is needed, and making a [Cloud] asks nothing.
//
//	c := cloud.New(cloud.Options{Zone: "eu-west-1a"})
//	targets, source, err := c.Targets(ctx, "fs-0123456789abcdef0")
//
// Errors are one line that names the identity, the call and what to change. They hold no
// secret.
//
// All methods are safe for concurrent use.
package cloud
