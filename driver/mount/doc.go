// Package mount makes the kernel's mounts: one private root mount per
// transport, and clones of its directories where Docker looks for volumes.
//
// Each [Root] lives on a thread of its own, in a mount namespace that holds
// nothing else and a UTS namespace whose host name is the NFS client's identity
// (the kernel makes the client owner of it, nfs4_init_uniform_client_string).
// So the host never sees a whole file system, only the volumes; and a crash
// leaves nothing behind but the clones, which running containers need.
//
// The package does not decide what to mount or when to give up: a mount of a
// server that swallows packets blocks its thread in the kernel for minutes and
// cannot be taken back, so callers ask the server first and wait for [Root.Done]
// only as long as they like. It does not verify a mount by reading the mount
// table again, and it does not parse that table before an unmount.
//
//	root := mount.Open(mount.Mount{Type: "nfs4", Source: "10.0.0.5:/", Options: options, Host: "web1-6f0c"})
//	<-root.Done()
//	err := root.Attach(dir, "/mnt/efs/volumes/data", mount.Flags{})
//
// All methods are safe for concurrent use.
package mount
