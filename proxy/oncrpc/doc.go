// Package oncrpc finds messages in a byte stream of ONC RPC records, and reads of each as much
// as somebody has to know who passes NFSv4.1 on without taking part in it: is it a call that
// introduces a client to the server, or one that asks for a session? It also knows how a server
// answers that has done with a client for good ([Head.Dismissal]).
//
// It reads heads: of a call up to its first NFS operation, of a reply its xid. It decodes no
// other operation, joins no fragments, keeps no bytes and does no I/O. What it does not know
// it calls [ErrUnknown]; there is no guessing. An operation behind the first one is not looked
// at: EXCHANGE_ID and CREATE_SESSION without a session stand alone (RFC 8881 sections 18.35.3
// and 18.36.3), and within one, behind SEQUENCE, Linux's client never sends them.
//
// A [Message] and [Replies] belong to one goroutine.
//
//	head, err := oncrpc.ReadHead(stream)
//	if errors.Is(err, oncrpc.ErrShort) {
//		… // read on
//	}
package oncrpc
