// Package relay passes bytes between NFS clients and the mount target that a
// group has chosen, and takes the clients along when the group moves.
//
// Plain connections are spliced, but for small messages, which take fewer system calls
// through memory: what flows in bulk never enters this process. Bytes are
// counted by asking the kernel (TCP_INFO), never by wrapping a connection. A
// relay accepts always. Where no mount target answers it holds a client, unread,
// since a refused one would stay away for seconds. A client is never left with
// a mount target that is gone: NFS sends nothing again on a connection that
// lives, so a relay first connects to the mount target in use, keeps that
// connection ready, and then resets the client's; the client comes back at once
// and finds it.
//
// Clients may have to prove who they are ([Relay.ServeSecured]). Until they have, they
// cost no connection to a mount target, and there are never many of them.
//
// A relay may have a [Gate], which says from one write to the next whether clients' bytes may
// pass. Then, and only then, it looks at NFS's messages: a session that a client gets is kept
// from it until the gate has confirmed that it may have one. What clients send is copied, and
// of what comes back only the rest of long fragments is spliced. When the gate will never open
// again, a relay answers in the server's place that there is nothing more to be had.
//
// It does not choose mount targets, takes no part in what it passes, and does not close
// listeners. All methods are safe for concurrent use.
//
//	r := &relay.Relay{Group: group, Log: log}
//	go r.Serve(ctx, listener)
//	…
//	err := r.Shutdown(deadline)
package relay
