package session

import (
	"context"
	"fmt"
	"net"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// Shared tells whether two connections reach servers that share the state of sessions, so that
// a client may go from one to the other and keep its locks: a session that the first has made is
// used by the second (SEQUENCE, RFC 8881 section 18.46), and the first knows of that use. The
// client that it makes for this, and destroys, has an owner that must be the caller's own: a
// kernel of that owner would be evicted.
//
// The answer is good if the error is nil or [ErrLeftover]. The other errors are those of
// [Evict]; they say nothing of the servers' state, and may leave a client of ours behind as
// well. For ctx and the connections the same holds.
func Shared(ctx context.Context, a, b net.Conn, owner string) (bool, error) {
	if err := checkOwner(owner); err != nil {
		return false, err
	}
	first, second := newServer(a), newServer(b)
	ours, err := first.enter(ctx, owner)
	if err != nil {
		return false, fmt.Errorf("make a session on the first server: %w", err)
	}
	shared, err := usable(ctx, first, second, ours.session)
	left := first.leave(ctx, ours)
	switch {
	case err != nil:
		return false, err
	case left != nil:
		return shared, fmt.Errorf("first server: %w: %w", ErrLeftover, left)
	}
	return shared, nil
}

// usable uses a session that is new on the first server, on the second and then on the first.
func usable(ctx context.Context, first, second *server, session [16]byte) (bool, error) {
	shared, err := second.use(ctx, session, 1)
	if err != nil {
		return false, fmt.Errorf("use the first server's session on the second: %w", err)
	}
	if !shared {
		return false, nil
	}
	// Servers that know nothing of each other may give the same name to two sessions: Linux
	// and nfs-ganesha make it from the second of their start and a counter, and two that
	// were started together do. Only one that has seen the second's request takes the next.
	if shared, err = first.use(ctx, session, 2); err != nil {
		return false, fmt.Errorf("use the session again on the first server: %w", err)
	}
	return shared, nil
}

// use makes the given request of a session, and tells whether the server has that session
// and awaits that request.
func (s *server) use(ctx context.Context, session [16]byte, number uint32) (bool, error) {
	err := insist(ctx, func() error {
		err := s.sequence(ctx, session, number)
		if !refused(err, nfsv4.NFS4ERR_CONN_NOT_BOUND_TO_SESSION) {
			return err
		}
		if err := s.bind(ctx, session); err != nil {
			return err
		}
		return s.sequence(ctx, session, number)
	})
	if refused(err, notOurs()...) {
		return false, nil
	}
	return err == nil, err
}

// notOurs are a server's words for no session of that name, and for one of that name in which
// other requests were made than ours.
func notOurs() []nfsv4.Nfsstat4 {
	return []nfsv4.Nfsstat4{
		nfsv4.NFS4ERR_BADSESSION,
		nfsv4.NFS4ERR_DEADSESSION,
		nfsv4.NFS4ERR_SEQ_MISORDERED,
		nfsv4.NFS4ERR_SEQ_FALSE_RETRY,
		nfsv4.NFS4ERR_RETRY_UNCACHED_REP,
	}
}
