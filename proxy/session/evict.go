package session

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// ErrLeftover reports that what was asked for is done, and that the server still has a client
// of ours, without files or locks. It is gone when the server's lease has run out, or with the
// next call for the same owner.
var ErrLeftover = errors.New("the server keeps a client of ours for a while")

// Evict has the server that conn reaches forget the NFS client of an owner (co_ownerid, as
// "Linux NFSv4.1 web-1"), with its sessions, opens and locks: what that client has sent and
// the server has not yet done, it refuses from then on (NFS4ERR_BADSESSION). A server that
// knows no such client is no error.
//
// To the server we are the owner, started anew: EXCHANGE_ID with a fresh verifier, confirmed
// by CREATE_SESSION (RFC 8881 section 18.35.4, case 5, and section 18.36.4). Then
// DESTROY_SESSION and DESTROY_CLIENTID (sections 18.37 and 18.50) take back what that made.
//
// nil, or an error that is [ErrLeftover]: the client is evicted. After any other error nobody
// knows; call again with a new connection. Such errors are the context's, the connection's,
// proxy.ErrNotNFS of a server that does not speak NFSv4, or say how the server refused:
// NFS4ERR_CLID_INUSE if the client calls as somebody else than root of AUTH_SYS.
// While the server wants patience (NFS4ERR_DELAY), or the owner's own calls come between
// (NFS4ERR_STALE_CLIENTID), it is asked again; give ctx a deadline.
//
// Dial the address that the owner's client has dialed. nfs-ganesha has clients of one owner for
// each of its addresses and evicts that of one, and what stands at another address may be
// another server. conn stays the caller's, who closes it: nothing can be done with it after an
// error or when ctx has ended.
func Evict(ctx context.Context, conn net.Conn, owner string) error {
	if err := checkOwner(owner); err != nil {
		return err
	}
	server := newServer(conn)
	ours, err := server.enter(ctx, owner)
	if err != nil {
		return fmt.Errorf("evict the NFS client %q: %w", owner, err)
	}
	if err := server.leave(ctx, ours); err != nil {
		return fmt.Errorf("evicted the NFS client %q: %w: %w", owner, ErrLeftover, err)
	}
	return nil
}

// checkOwner knows what no server may accept (RFC 8881 section 3.3.10), and an owner that was forgotten.
func checkOwner(owner string) error {
	if owner == "" || len(owner) > nfsv4.NFS4_OPAQUE_LIMIT {
		return fmt.Errorf("the owner of an NFS client has 1 to %d bytes, not %d", nfsv4.NFS4_OPAQUE_LIMIT, len(owner))
	}
	return nil
}
