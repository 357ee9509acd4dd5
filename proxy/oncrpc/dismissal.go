package oncrpc

import "encoding/binary"

// What a reply has (RFC 5531 section 9): it was accepted, and the procedure was called.
const replyAccepted, acceptedSuccess = 0, 0

// NFSv4's errors (RFC 8881 section 15.1).
const (
	errClientIDInUse = 10017 // NFS4ERR_CLID_INUSE
	errStaleClientID = 10022 // NFS4ERR_STALE_CLIENTID
	errBadSession    = 10052 // NFS4ERR_BADSESSION
)

// dismissalOf is what a server answers to a COMPOUND that begins with an operation, if it has
// forgotten the client and takes it back never; 0: no COMPOUND begins so.
//
// A client that hears that its session and then its client ID are gone introduces itself anew.
// NFS4ERR_CLID_INUSE is the one answer to that by which Linux's gives up: it marks its client as
// failed (-EPERM), which all get that wait for the server or come later (fs/nfs/nfs4state.c,
// nfs4_handle_reclaim_lease_error and nfs4_wait_clnt_recover). After any other error, and as
// long as nobody answers, they wait for ever.
func dismissalOf(operation uint32) (status uint32) {
	switch operation {
	case opSequence, opBindConn, opDestroySession:
		return errBadSession
	case opCreateSession, opDestroyClientID:
		return errStaleClientID
	case opExchangeID:
		return errClientIDInUse
	}
	return 0
}

// Dismissal returns the record by which a server answers the message that has this head, if it
// has done with the client for good; nil if the message is none that is answered. It reads the stream
// that the head was read from, which therefore must not have changed.
func (h Head) Dismissal() []byte {
	if !h.call {
		return nil
	}
	const noMark = 0
	reply := words(make([]byte, 0, 64+len(h.tag)), noMark, h.XID, rpcReply, replyAccepted, authNone, 0, acceptedSuccess)
	if h.operation != 0 {
		const results = 1
		status := dismissalOf(h.operation)
		reply = words(reply, status, uint32(len(h.tag)))
		reply = append(append(reply, h.tag...), make([]byte, -len(h.tag)&3)...)
		reply = words(reply, results, h.operation, status)
	}
	binary.BigEndian.PutUint32(reply, lastFragment|uint32(len(reply)-markSize))
	return reply
}

func words(to []byte, values ...uint32) []byte {
	for _, value := range values {
		to = binary.BigEndian.AppendUint32(to, value)
	}
	return to
}
