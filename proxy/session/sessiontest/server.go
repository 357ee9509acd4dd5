// Package sessiontest has an NFSv4.1 server for tests, which knows of clients and their sessions what
// RFC 8881 section 18.35.4 asks of it, answers NULL, and serves no file.
package sessiontest

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
)

// Server is one with the state that RFC 8881 section 18.35.4 asks of it.
type Server struct {
	// Before is asked ahead of each operation, with the lock held; what it returns but NFS4_OK is the answer.
	Before func(name string) nfsv4.Nfsstat4
	// AsksToBind makes it want BIND_CONN_TO_SESSION of other connections than the session's first.
	AsksToBind bool

	mu sync.Mutex // guards the following fields; tests use them before and after the calls
	// Clients are known by their ids, Sessions by theirs; Made counts both.
	Clients  map[uint64]*Client
	Sessions map[[16]byte]*Session
	Made     uint64
	// Calls are the operations in their order.
	Calls []string
}

// Client is one as the server knows it.
type Client struct {
	Owner     string
	Verifier  [8]byte
	UID       uint32
	Confirmed bool
	Sequence  uint32
}

// Session is one with its only slot.
type Session struct {
	Client uint64
	Last   uint32
	Bound  []net.Conn
}

// New is a server that knows nobody.
func New() *Server {
	return &Server{Clients: map[uint64]*Client{}, Sessions: map[[16]byte]*Session{}}
}

// Mount is a kernel's client with a session that is in use, made by uid.
func (w *Server) Mount(owner string, uid uint32) (session [16]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Made++
	w.Clients[w.Made] = &Client{Owner: owner, Verifier: [8]byte{1}, UID: uid, Confirmed: true, Sequence: 2}
	session = [16]byte{0xaa, byte(w.Made)}
	w.Sessions[session] = &Session{Client: w.Made, Last: 41}
	return session
}

// Has counts the owner's clients, confirmed or not, and their sessions.
func (w *Server) Has(owner string) (clients, sessions int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, client := range w.Clients {
		if client.Owner != owner {
			continue
		}
		clients++
		for _, session := range w.Sessions {
			if session.Client == id {
				sessions++
			}
		}
	}
	return clients, sessions
}

// Forget drops a client with its sessions. The caller has the server for itself, as [Server.Before] has.
func (w *Server) Forget(id uint64) {
	delete(w.Clients, id)
	for name, session := range w.Sessions {
		if session.Client == id {
			delete(w.Sessions, name)
		}
	}
}

// Connect is a new connection to the server, closed at the end of the test.
func (w *Server) Connect(t *testing.T) net.Conn {
	return Pipe(t, func(conn net.Conn) { w.Serve(t, conn) })
}

// Serve answers the calls that come on a connection, until it ends.
func (w *Server) Serve(t testing.TB, conn net.Conn) {
	for {
		message, err := ReadMessage(conn)
		if err != nil {
			return
		}
		reply := null(message)
		if reply == nil {
			if reply, err = w.Answer(conn, message); err != nil {
				t.Errorf("the server does not understand: %v: % x", err, message)
				return
			}
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// null answers a call of NULL, the procedure 0 (RFC 5531 section 9); nil for other calls.
func null(message []byte) []byte {
	if len(message) < 24 || binary.BigEndian.Uint32(message[20:]) != 0 {
		return nil
	}
	reply := make([]byte, 24)
	copy(reply, message[:4])
	reply[7] = 1
	return Fragment(true, reply)
}

// Pipe is a connection at whose other end serve runs, until it returns.
func Pipe(t *testing.T, serve func(conn net.Conn)) net.Conn {
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

// ReadMessage reads a record of one fragment (RFC 5531 section 11).
func ReadMessage(conn io.Reader) ([]byte, error) {
	mark := make([]byte, 4)
	if _, err := io.ReadFull(conn, mark); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(mark)&^(1<<31))
	_, err := io.ReadFull(conn, message)
	return message, err
}

// Answer reads a call and does what it says.
func (w *Server) Answer(conn net.Conn, message []byte) ([]byte, error) {
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
	status, result := w.Do(conn, compound.Argarray[0])
	return Success(header.Xid, &nfsv4.Compound4res{Status: status, Resarray: []nfsv4.NfsResop4{result}}), nil
}

// Success is a record with the reply to a COMPOUND.
func Success(xid uint32, compound io.WriterTo) []byte {
	header := rpcv2.RpcMsg{Xid: xid, Body: &rpcv2.RpcMsgBody_REPLY{Rbody: &rpcv2.ReplyBody_MSG_ACCEPTED{
		Areply: rpcv2.AcceptedReply{ReplyData: &rpcv2.AcceptedReplyData_SUCCESS{}},
	}}}
	var message bytes.Buffer
	for _, part := range []io.WriterTo{&header, compound} {
		if _, err := part.WriteTo(&message); err != nil {
			panic(err)
		}
	}
	return Fragment(true, message.Bytes())
}

// Fragment is data as a fragment of a record, perhaps its last.
func Fragment(last bool, data []byte) []byte {
	mark := uint32(len(data))
	if last {
		mark |= 1 << 31
	}
	return append(binary.BigEndian.AppendUint32(nil, mark), data...)
}

// Do does one operation.
func (w *Server) Do(conn net.Conn, operation nfsv4.NfsArgop4) (nfsv4.Nfsstat4, nfsv4.NfsResop4) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.TrimPrefix(nfsv4.NfsOpnum4_name[operation.GetArgop()], "OP_")
	w.Calls = append(w.Calls, name)
	status := nfsv4.NFS4_OK
	if w.Before != nil {
		status = w.Before(name)
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

func (w *Server) exchangeID(status nfsv4.Nfsstat4, args nfsv4.ExchangeId4args) (nfsv4.ExchangeId4res, nfsv4.Nfsstat4) {
	var flags uint32
	var replaced []uint64
	for id, client := range w.Clients {
		switch {
		case client.Owner != string(args.EiaClientowner.CoOwnerid):
		case !client.Confirmed:
			replaced = append(replaced, id)
		case client.UID != 0:
			status = nfsv4.NFS4ERR_CLID_INUSE
		case client.Verifier == args.EiaClientowner.CoVerifier:
			flags |= nfsv4.EXCHGID4_FLAG_CONFIRMED_R
		}
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.ExchangeId4res_default{EirStatus: status}, status
	}
	for _, id := range replaced {
		w.Forget(id)
	}
	w.Made++
	w.Clients[w.Made] = &Client{Owner: string(args.EiaClientowner.CoOwnerid), Verifier: args.EiaClientowner.CoVerifier, Sequence: 7}
	return &nfsv4.ExchangeId4res_NFS4_OK{EirResok4: nfsv4.ExchangeId4resok{
		EirClientid:     w.Made,
		EirSequenceid:   7,
		EirFlags:        flags | nfsv4.EXCHGID4_FLAG_USE_NON_PNFS,
		EirStateProtect: &nfsv4.StateProtect4R_SP4_NONE{},
		EirServerOwner:  nfsv4.ServerOwner4{SoMajorId: []byte("fake")},
		EirServerScope:  []byte("scope"),
		EirServerImplId: []nfsv4.NfsImplId4{{NiiDomain: "example.com", NiiName: "fake"}},
	}}, status
}

func (w *Server) createSession(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.CreateSession4args) (nfsv4.CreateSession4res, nfsv4.Nfsstat4) {
	client := w.Clients[args.CsaClientid]
	switch {
	case client == nil:
		status = nfsv4.NFS4ERR_STALE_CLIENTID
	case client.Sequence != args.CsaSequence:
		status = nfsv4.NFS4ERR_SEQ_MISORDERED
	case len(args.CsaSecParms) == 0:
		status = nfsv4.NFS4ERR_ENCR_ALG_UNSUPP
	case args.CsaBackChanAttrs.CaMaxrequestsize < 1024 || args.CsaBackChanAttrs.CaMaxoperations < 2:
		status = nfsv4.NFS4ERR_TOOSMALL
	}
	if client != nil {
		client.Sequence++ // also if it is put off: some servers count that
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.CreateSession4res_default{CsrStatus: status}, status
	}
	for id, other := range w.Clients {
		if other.Owner == client.Owner && other != client {
			w.Forget(id)
		}
	}
	client.Confirmed = true
	w.Made++
	session := [16]byte{byte(w.Made), 0xbb}
	w.Sessions[session] = &Session{Client: args.CsaClientid, Bound: []net.Conn{conn}}
	return &nfsv4.CreateSession4res_NFS4_OK{CsrResok4: nfsv4.CreateSession4resok{
		CsrSessionid: session, CsrSequence: args.CsaSequence,
		CsrForeChanAttrs: args.CsaForeChanAttrs, CsrBackChanAttrs: args.CsaBackChanAttrs,
	}}, status
}

func (w *Server) sequence(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.Sequence4args) (nfsv4.Sequence4res, nfsv4.Nfsstat4) {
	session := w.Sessions[args.SaSessionid]
	switch {
	case status != nfsv4.NFS4_OK:
	case session == nil:
		status = nfsv4.NFS4ERR_BADSESSION
	case w.AsksToBind && !slices.Contains(session.Bound, conn):
		status = nfsv4.NFS4ERR_CONN_NOT_BOUND_TO_SESSION
	case args.SaSequenceid != session.Last+1:
		status = nfsv4.NFS4ERR_SEQ_MISORDERED
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.Sequence4res_default{SrStatus: status}, status
	}
	session.Last++
	return &nfsv4.Sequence4res_NFS4_OK{SrResok4: nfsv4.Sequence4resok{
		SrSessionid: args.SaSessionid, SrSequenceid: args.SaSequenceid,
	}}, status
}

func (w *Server) bind(status nfsv4.Nfsstat4, conn net.Conn, args nfsv4.BindConnToSession4args) (nfsv4.BindConnToSession4res, nfsv4.Nfsstat4) {
	session := w.Sessions[args.BctsaSessid]
	if session == nil && status == nfsv4.NFS4_OK {
		status = nfsv4.NFS4ERR_BADSESSION
	}
	if status != nfsv4.NFS4_OK {
		return &nfsv4.BindConnToSession4res_default{BctsrStatus: status}, status
	}
	session.Bound = append(session.Bound, conn)
	return &nfsv4.BindConnToSession4res_NFS4_OK{BctsrResok4: nfsv4.BindConnToSession4resok{
		BctsrSessid: args.BctsaSessid, BctsrDir: nfsv4.CDFS4_FORE,
	}}, status
}

func (w *Server) destroySession(status nfsv4.Nfsstat4, args nfsv4.DestroySession4args) nfsv4.Nfsstat4 {
	switch {
	case status != nfsv4.NFS4_OK:
		return status
	case w.Sessions[args.DsaSessionid] == nil:
		return nfsv4.NFS4ERR_BADSESSION
	}
	delete(w.Sessions, args.DsaSessionid)
	return nfsv4.NFS4_OK
}

func (w *Server) destroyClientID(status nfsv4.Nfsstat4, args nfsv4.DestroyClientid4args) nfsv4.Nfsstat4 {
	switch {
	case status != nfsv4.NFS4_OK:
		return status
	case w.Clients[args.DcaClientid] == nil:
		return nfsv4.NFS4ERR_STALE_CLIENTID
	}
	for _, session := range w.Sessions {
		if session.Client == args.DcaClientid {
			return nfsv4.NFS4ERR_CLIENTID_BUSY
		}
	}
	w.Forget(args.DcaClientid)
	return nfsv4.NFS4_OK
}
