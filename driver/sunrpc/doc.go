// Package sunrpc shows the connections of the kernel's own RPC clients, NFS
// among them, moves one to another address of its server, and shuts NFS mounts down.
//
// The kernel lists them in sysfs under kernel/sunrpc (net/sunrpc/sysfs.c, Linux
// 5.14 and newer): a transport switch for each client of a server, in it a transport for each
// connection. A managed plugin's /sys is read-only and may be another network
// namespace's, so a [Table] mounts one of its own that is attached nowhere.
//
// It answers two questions that nothing else answers for certain: whether the socket
// at the other end of a loopback connection is the kernel's NFS client, and
// which server a mount really talks to.
//
//	table, err := sunrpc.Open()
//	transports, err := table.Transports()
//	err = table.Move(ctx, transports[0].Name, netip.MustParseAddr("10.0.2.5"))
//
// A Table is safe for concurrent use. Its owner closes it.
package sunrpc
