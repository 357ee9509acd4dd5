// Package peer tells who is at the other end of a TCP connection within this host:
// the kernel's NFS client, or a process that must get nothing.
//
// The kernel is asked (sock_diag(7)) for the one socket that has the connection's
// addresses the other way round. It tells three things of it:
//
//   - the user. A process may give its socket to somebody else; the user is whose
//     it was when it was made. Sockets that the kernel makes for itself are root's.
//   - the inode. The kernel's sockets have one as those of processes have (both are
//     made by sock_alloc, and the NFS client's even has a file, sock_alloc_file in
//     xs_create_sock). None at all means that the socket's owner is gone: closed, in
//     TIME_WAIT, or not yet established. Older kernels call root the user of such a
//     socket, whoever it belonged to. It is nobody's and gets nothing.
//   - the control group (version 2) of the thread that made the socket; Linux 5.9 and
//     later. The NFS client's sockets are made by a kernel worker (xprtiod), which
//     lives in the root group and cannot be moved out of it. Containers and services
//     live in groups of their own, whether root there or not, and also if they use
//     the host's network.
//
// There is no number that says "made by the kernel" (sk_kern_sock is not told), and
// no process to ask for: a process is known only by who holds the inode, for which one
// would have to search /proc of the whole host, which a plugin does not see.
//
// # What is not excluded
//
// A process of the host's root that somebody put into the root control group looks
// like the kernel. systemd leaves none there; hosts without it may run everything of
// the host, not of containers, there. Such a process can also read the mounts
// themselves. So can other clients in the kernel that root of the host starts
// (CIFS, NVMe over TCP). On a host without version 2 control groups, every socket
// seems to be of the root group; [CheckKernel] finds that out by its own end of the
// connection, and says [ErrBlind] instead of believing it.
//
// The kernel itself names its NFS connections in /sys/kernel/sunrpc (Linux 5.14 and
// later: src_port, dst_port and srcaddr of every transport of a network namespace).
// That would exclude the above as well; this package does not read it, package
// driver does.
//
// [Find] looks at any connection of this host, such as the kernel's own to a server:
// whether what it sent arrives.
//
// Addresses are compared as the kernel has them: nothing may translate them on the
// way. The package decides nothing else, keeps no state and caches nothing. An answer
// is as old as the question: ask before the first byte is taken from the connection.
//
//	if err := peer.CheckKernel(conn); err != nil {
//		log.Warnf("refused: %v", err)
//	}
//
// All functions are safe for concurrent use and take some 20 µs.
package peer
