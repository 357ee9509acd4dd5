package session_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Owners of NFS clients: a kernel, and one who asks for himself.
const (
	kernel = "Linux NFSv4.1 web-1"
	canary = "canary of web-2"
)

// world is an NFS server with the state that RFC 8881 section 18.35.4 asks of it.
type world struct {
	// before is asked ahead of each operation, with the lock held; what it returns but NFS4_OK is the answer.
	before func(name string) nfsv4.Nfsstat4
	// asksToBind makes it want BIND_CONN_TO_SESSION of other connections than the session's first.
	asksToBind bool

	mu       sync.Mutex
	clients  map[uint64]*record
	sessions map[[16]byte]*slot
	made     uint64
	calls    []string
}

// record is a client as the server knows it.
type record struct {
	owner     string
	verifier  [8]byte
	uid       uint32
	confirmed bool
	sequence  uint32
}

// slot is a session with its only slot.
type slot struct {
	client uint64
	last   uint32
	bound  []net.Conn
}

func newWorld() *world {
	return &world{clients: map[uint64]*record{}, sessions: map[[16]byte]*slot{}}
}

// mount is a kernel's client with a session that is in use, made by uid.
func (w *world) mount(owner string, uid uint32) (session [16]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	w.clients[w.made] = &record{owner: owner, verifier: [8]byte{1}, uid: uid, confirmed: true, sequence: 2}
	session = [16]byte{0xaa, byte(w.made)}
	w.sessions[session] = &slot{client: w.made, last: 41}
	return session
}

// has counts the owner's clients, confirmed or not, and their sessions.
func (w *world) has(owner string) (clients, sessions int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, client := range w.clients {
		if client.owner != owner {
			continue
		}
		clients++
		for _, session := range w.sessions {
			if session.client == id {
				sessions++
			}
		}
	}
	return clients, sessions
}

func (w *world) forget(id uint64) {
	delete(w.clients, id)
	for name, session := range w.sessions {
		if session.client == id {
			delete(w.sessions, name)
		}
	}
}

// connect is a new connection to the server, closed at the end of the test.
func (w *world) connect(t *testing.T) net.Conn {
	return pipe(t, func(conn net.Conn) {
		for {
			message, err := readMessage(conn)
			if err != nil {
				return
			}
			reply, err := w.answer(conn, message)
			if err != nil {
				t.Errorf("the server does not understand: %v: % x", err, message)
				return
			}
			if _, err := conn.Write(reply); err != nil {
				return
			}
		}
	})
}

// pipe is a connection at whose other end serve runs, until it returns.
func pipe(t *testing.T, serve func(conn net.Conn)) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		defer theirs.Close()
		serve(theirs)
	})
	t.Cleanup(func() {
		_ = ours.Close()
		running.Wait()
	})
	return ours
}

func readMessage(conn io.Reader) ([]byte, error) {
	mark := make([]byte, 4)
	if _, err := io.ReadFull(conn, mark); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(mark)&^(1<<31))
	_, err := io.ReadFull(conn, message)
	return message, err
}

// answer reads a call and does what it says.
func (w *world) answer(conn net.Conn, message []byte) ([]byte, error) {
	reader := bytes.NewReader(message)
	var header rpcv2.RpcMsg
	var compound nfsv4.Compound4args
	for _, part := range []io.ReaderFrom{&header, &compound} {
		if _, err := part.ReadFrom(reader); err != nil {
			return nil, err
		}
	}
	call, isCall := header.Body.(*rpcv2.RpcMsgBody_CALL)
	if !isCall || reader.Len() > 0 || compound.Minorversion != 1 || len(compound.Argarray) != 1 {
		return nil, errors.New("no single operation of NFSv4.1")
	}
	var user rpcv2.AuthsysParms
	if _, err := user.ReadFrom(bytes.NewReader(call.Cbody.Cred.Body)); err != nil || call.Cbody.Cred.Flavor != rpcv2.AUTH_SYS {
		return nil, errors.New("no user of AUTH_SYS")
	}
	if user.Uid != 0 || user.Gid != 0 || user.Machinename == "" {
		return nil, fmt.Errorf("called by %+v", user)
	}
	status, result := w.do(conn, compound.Argarray[0])
	return success(header.Xid, &nfsv4.Compound4res{Status: status, Resarray: []nfsv4.NfsResop4{result}}), nil
}

// success is a record with the reply to a COMPOUND.
func success(xid uint32, compound io.WriterTo) []byte {
	header := rpcv2.RpcMsg{Xid: xid, Body: &rpcv2.RpcMsgBody_REPLY{Rbody: &rpcv2.ReplyBody_MSG_ACCEPTED{
		Areply: rpcv2.AcceptedReply{ReplyData: &rpcv2.AcceptedReplyData_SUCCESS{}},
	}}}
	var message bytes.Buffer
	for _, part := range []io.WriterTo{&header, compound} {
		if _, err := part.WriteTo(&message); err != nil {
			panic(err)
		}
	}
	return fragment(true, message.Bytes())
}

func fragment(last bool, data []byte) []byte {
	mark := uint32(len(data))
	if last {
		mark |= 1 << 31
	}
	return append(binary.BigEndian.AppendUint32(nil, mark), data...)
}

func (w *world) do(conn net.Conn, operation nfsv4.NfsArgop4) (nfsv4.Nfsstat4, nfsv4.NfsResop4) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.TrimPrefix(nfsv4.NfsOpnum4_name[operation.GetArgop()], "OP_")
	w.calls = append(w.calls, name)
	status := nfsv4.NFS4_OK
	if w.before != nil {
		status = w.before(name)
	}
	switch operation := operation.(type) {
	case *nfsv4.NfsArgop4_OP_EXCHANGE_ID:
		result, status := w.exchangeID(status, operation.OpexchangeId)
		return status, &nfsv4.NfsResop4_OP_EXCHANGE_ID{OpexchangeId: result}
	case *nfsv4.NfsArgop4_OP_CREATE_SESSION:
		result, status := w.createSession(status, conn, operation.OpcreateSession)
		return status, &nfsv4.NfsResop4_OP_CREATE_SESSION{OpcreateSession: result}
	case *nfsv4.NfsArgop4_OP_SEQUENCE:
		result, status := w.sequence(status, conn, operation.Opsequence)
		return status, &nfsv4.NfsResop4_OP_SEQUENCE{Opsequence: result}
	case *nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION:
		result, status := w.bind(status, conn, operation.OpbindConnToSession)
		return status, &nfsv4.NfsResop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: result}
	case *nfsv4.NfsArgop4_OP_DESTROY_SESSION:
		status = w.destroySession(status, operation.OpdestroySession)
		return status, &nfsv4.NfsResop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4res{DsrStatus: status}}
	case *nfsv4.NfsArgop4_OP_DESTROY_CLIENTID:
		status = w.destroyClientID(status, operation.OpdestroyClientid)
		return status, &nfsv4.NfsResop4_OP_DESTROY_CLIENTID{OpdestroyClientid: nfsv4.DestroyClientid4res{DcrStatus: status}}
	}
	return nfsv4.NFS4ERR_OP_ILLEGAL, &nfsv4.NfsResop4_OP_ILLEGAL{Opillegal: nfsv4.Illegal4res{Status: nfsv4.NFS4ERR_OP_ILLEGAL}}
}

func (w *world) exchangeID(status nfsv4.Nfsstat4, args nfsv4.ExchangeId4args) (nfsv4.ExchangeId4res, nfsv4.Nfsstat4) {
	var flags uint32
	var replaced []uint64
	for id, client := range w.clients {
		switch {
		case client.owner != string(args.EiaClientowner.CoOwnerid):
		case !client.confirmed:
			replaced = append(replaced, id)
		case client.uid != 0:
			status = nfsv4.NFS4ERR_CLID_INUSE
		case client.verifier == args.EiaClientowner.CoVerifier:
			flags |= nfsv4.EXCHGID4_FLAG_CONFIRMED_R
		}
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.ExchangeId4res_default{EirStatus: status}, status
	}
	for _, id := range replaced {
		w.forget(id)
	}
	w.made++
	w.clients[w.made] = &record{owner: string(args.EiaClientowner.CoOwnerid), verifier: args.EiaClientowner.CoVerifier, sequence: 7}
	return &nfsv4.ExchangeId4res_NFS4_OK{EirResok4: nfsv4.ExchangeId4resok{
		EirClientid:     w.made,
		EirSequenceid:   7,
		EirFlags:        flags | nfsv4.EXCHGID4_FLAG_USE_NON_PNFS,
		EirStateProtect: &nfsv4.StateProtect4R_SP4_NONE{},
		EirServerOwner:  nfsv4.ServerOwner4{SoMajorId: []byte("fake")},
		EirServerScope:  []byte("scope"),
		EirServerImplId: []nfsv4.NfsImplId4{{NiiDomain: "example.com", NiiName: "fake"}},
	}}, status
}

func (w *world) createSession(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.CreateSession4args) (nfsv4.CreateSession4res, nfsv4.Nfsstat4) {
	client := w.clients[args.CsaClientid]
	switch {
	case client == nil:
		status = nfsv4.NFS4ERR_STALE_CLIENTID
	case client.sequence != args.CsaSequence:
		status = nfsv4.NFS4ERR_SEQ_MISORDERED
	case len(args.CsaSecParms) == 0:
		status = nfsv4.NFS4ERR_ENCR_ALG_UNSUPP
	case args.CsaBackChanAttrs.CaMaxrequestsize < 1024 || args.CsaBackChanAttrs.CaMaxoperations < 2:
		status = nfsv4.NFS4ERR_TOOSMALL
	}
	if client != nil {
		client.sequence++ // also if it is put off: some servers count that
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.CreateSession4res_default{CsrStatus: status}, status
	}
	for id, other := range w.clients {
		if other.owner == client.owner && other != client {
			w.forget(id)
		}
	}
	client.confirmed = true
	w.made++
	session := [16]byte{byte(w.made), 0xbb}
	w.sessions[session] = &slot{client: args.CsaClientid, bound: []net.Conn{conn}}
	return &nfsv4.CreateSession4res_NFS4_OK{CsrResok4: nfsv4.CreateSession4resok{
		CsrSessionid: session, CsrSequence: args.CsaSequence,
		CsrForeChanAttrs: args.CsaForeChanAttrs, CsrBackChanAttrs: args.CsaBackChanAttrs,
	}}, status
}

func (w *world) sequence(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.Sequence4args) (nfsv4.Sequence4res, nfsv4.Nfsstat4) {
	session := w.sessions[args.SaSessionid]
	switch {
	case status != nfsv4.NFS4_OK:
	case session == nil:
		status = nfsv4.NFS4ERR_BADSESSION
	case w.asksToBind && !slices.Contains(session.bound, conn):
		status = nfsv4.NFS4ERR_CONN_NOT_BOUND_TO_SESSION
	case args.SaSequenceid != session.last+1:
		status = nfsv4.NFS4ERR_SEQ_MISORDERED
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.Sequence4res_default{SrStatus: status}, status
	}
	session.last++
	return &nfsv4.Sequence4res_NFS4_OK{SrResok4: nfsv4.Sequence4resok{
		SrSessionid: args.SaSessionid, SrSequenceid: args.SaSequenceid,
	}}, status
}

func (w *world) bind(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.BindConnToSession4args) (nfsv4.BindConnToSession4res, nfsv4.Nfsstat4) {
	session := w.sessions[args.BctsaSessid]
	if session == nil && status == nfsv4.NFS4_OK {
		status = nfsv4.NFS4ERR_BADSESSION
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.BindConnToSession4res_default{BctsrStatus: status}, status
	}
	session.bound = append(session.bound, conn)
	return &nfsv4.BindConnToSession4res_NFS4_OK{BctsrResok4: nfsv4.BindConnToSession4resok{
		BctsrSessid: args.BctsaSessid, BctsrDir: nfsv4.CDFS4_FORE,
	}}, status
}

func (w *world) destroySession(status nfsv4.Nfsstat4, args nfsv4.DestroySession4args) nfsv4.Nfsstat4 {
	switch {
	case status != nfsv4.NFS4_OK:
		return status
	case w.sessions[args.DsaSessionid] == nil:
		return nfsv4.NFS4ERR_BADSESSION
	}
	delete(w.sessions, args.DsaSessionid)
	return nfsv4.NFS4_OK
}

func (w *world) destroyClientID(status nfsv4.Nfsstat4, args nfsv4.DestroyClientid4args) nfsv4.Nfsstat4 {
	switch {
	case status != nfsv4.NFS4_OK:
		return status
	case w.clients[args.DcaClientid] == nil:
		return nfsv4.NFS4ERR_STALE_CLIENTID
	}
	for _, session := range w.sessions {
		if session.client == args.DcaClientid {
			return nfsv4.NFS4ERR_CLIENTID_BUSY
		}
	}
	w.forget(args.DcaClientid)
	return nfsv4.NFS4_OK
}
