// Package session sees the sessions of NFSv4.1 from beside the kernel: a client of a few
// operations, on connections of its own, that tells a server to forget another client
// ([Evict]) and whether two servers have the same sessions ([Shared]).
//
// It opens no file, holds no lock and reads no data. It does not dial, close or secure a
// connection, and it does not decide who may be evicted: the caller holds the right to.
// A kernel that still has a way to the server comes back after it was evicted, as after a
// server's restart; that way is closed first.
//
// The server may be hostile: it is waited for no longer than the context lasts, and no more
// than 64 KiB of an answer are read. That it has forgotten a client is its own word.
//
// Calls are made as the user root of AUTH_SYS (RFC 5531 section 14), as Linux makes them:
// a server lets nobody else speak for a client of root's (RFC 8881 section 18.35.4, case 3).
// The types of the messages, with the encoding (RFC 4506), are those of
// github.com/buildbarn/go-xdr, made from the RFCs.
//
//	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
//	defer cancel()
//	err := session.Evict(ctx, conn, "Linux NFSv4.1 web-1")
//	switch {
//	case errors.Is(err, session.ErrLeftover):
//		log.Warn(err)
//	case err != nil:
//		return err
//	}
//
// All functions are safe for concurrent use, each call with connections of its own.
package session
