package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// How a call travels: ONC RPC (RFC 5531 section 9) in records on TCP (section 11), and
// NFSv4's only procedure (RFC 8881 section 16.2).
const (
	rpcVersion        = 2
	nfsVersion        = 4
	procedureCompound = 1
	minorVersion      = 1
	lastFragment      = 1 << 31
	markSize          = 4
	// maxReply is far beyond any answer that is awaited: the longest, to EXCHANGE_ID,
	// has two names of at most 1 KiB, and two more if the server shows what it is.
	maxReply = 64 << 10
	// machine is what servers may log. None that is known compares it.
	machine = "docker-volume-efs"
)

var (
	errNoReply   = fmt.Errorf("%w: the answer is no RPC reply", proxy.ErrNotNFS)
	errRefused   = fmt.Errorf("%w: it refused the call", proxy.ErrNotNFS)
	errMalformed = fmt.Errorf("%w: the answer is not one to the operation", proxy.ErrNotNFS)
)

// server is the other end of a connection on which nobody else calls.
type server struct {
	conn net.Conn
	xid  uint32
}

func newServer(conn net.Conn) *server {
	return &server{conn: conn, xid: rand.Uint32()}
}

// call has the server do one operation and returns the result. The error is a [status] if
// the server refused, and names the operation. Nothing is sent twice: after any other error
// nobody knows what the server has done, and the connection is good for nothing.
func (s *server) call(ctx context.Context, operation nfsv4.NfsArgop4) (nfsv4.NfsResop4, error) {
	// After the context's end nothing is even sent.
	result, err := nfsv4.NfsResop4(nil), ctx.Err()
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		result, err = s.exchange(operation)
	}
	if err != nil {
		name := strings.TrimPrefix(nfsv4.NfsOpnum4_name[operation.GetArgop()], "OP_")
		return nil, fmt.Errorf("%s: %w", name, timedOut(ctx, err))
	}
	return result, nil
}

func (s *server) exchange(operation nfsv4.NfsArgop4) (nfsv4.NfsResop4, error) {
	s.xid++
	message, err := encodeCall(s.xid, operation)
	if err != nil {
		return nil, err
	}
	if _, err := s.conn.Write(message); err != nil {
		return nil, err
	}
	reply, err := readRecord(s.conn)
	if err != nil {
		return nil, err
	}
	return decodeReply(reply, s.xid, operation.GetArgop())
}

// encodeCall makes the record of a COMPOUND with one operation.
func encodeCall(xid uint32, operation nfsv4.NfsArgop4) ([]byte, error) {
	var credentials bytes.Buffer
	if _, err := (&rpcv2.AuthsysParms{Machinename: machine}).WriteTo(&credentials); err != nil {
		return nil, err
	}
	header := rpcv2.RpcMsg{Xid: xid, Body: &rpcv2.RpcMsgBody_CALL{Cbody: rpcv2.CallBody{
		Rpcvers: rpcVersion,
		Prog:    nfsv4.NFS4_PROGRAM_PROGRAM_NUMBER,
		Vers:    nfsVersion,
		Proc:    procedureCompound,
		Cred:    rpcv2.OpaqueAuth{Flavor: rpcv2.AUTH_SYS, Body: credentials.Bytes()},
	}}}
	compound := nfsv4.Compound4args{Minorversion: minorVersion, Argarray: []nfsv4.NfsArgop4{operation}}
	record := bytes.NewBuffer(make([]byte, markSize))
	for _, part := range []io.WriterTo{&header, &compound} {
		if _, err := part.WriteTo(record); err != nil {
			return nil, err
		}
	}
	message := record.Bytes()
	binary.BigEndian.PutUint32(message, lastFragment|uint32(len(message)-markSize))
	return message, nil
}

// readRecord reads the fragments of a record (RFC 5531 section 11) and no byte beyond.
func readRecord(conn io.Reader) ([]byte, error) {
	var record []byte
	// The marks count, so that empty fragments come to an end as well.
	for read := markSize; ; read += markSize {
		mark := make([]byte, markSize)
		if err := readFull(conn, mark); err != nil {
			return nil, err
		}
		word := binary.BigEndian.Uint32(mark)
		size := int(word &^ lastFragment)
		if size > maxReply-read {
			return nil, errNoReply
		}
		read += size
		record = append(record, make([]byte, size)...)
		if err := readFull(conn, record[len(record)-size:]); err != nil {
			return nil, err
		}
		if word&lastFragment != 0 {
			return record, nil
		}
	}
}

func readFull(conn io.Reader, data []byte) error {
	_, err := io.ReadFull(conn, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it closed the connection", proxy.ErrNotNFS)
	}
	return err
}

// decodeReply reads the reply to encodeCall's message.
func decodeReply(reply []byte, xid uint32, operation nfsv4.NfsOpnum4) (nfsv4.NfsResop4, error) {
	reader := bytes.NewReader(reply)
	var header rpcv2.RpcMsg
	if _, err := header.ReadFrom(reader); err != nil || header.Xid != xid {
		return nil, errNoReply
	}
	body, isReply := header.Body.(*rpcv2.RpcMsgBody_REPLY)
	if !isReply {
		return nil, errNoReply
	}
	accepted, isAccepted := body.Rbody.(*rpcv2.ReplyBody_MSG_ACCEPTED)
	if !isAccepted || accepted.Areply.ReplyData.GetStat() != rpcv2.SUCCESS {
		return nil, errRefused
	}
	var compound nfsv4.Compound4res
	if _, err := compound.ReadFrom(reader); err != nil || reader.Len() > 0 {
		return nil, errMalformed
	}
	// A server that refuses the whole, as one without NFSv4.1, has no results.
	if compound.Status != nfsv4.NFS4_OK {
		return nil, status(compound.Status)
	}
	if len(compound.Resarray) != 1 || compound.Resarray[0].GetResop() != operation {
		return nil, errMalformed
	}
	return compound.Resarray[0], nil
}

// status is why a server refused an operation (RFC 8881 section 15.1).
type status nfsv4.Nfsstat4

func (s status) Error() string {
	name, known := nfsv4.Nfsstat4_name[nfsv4.Nfsstat4(s)]
	switch {
	case s == status(nfsv4.NFS4ERR_CLID_INUSE):
		return fmt.Sprintf("the owner's client is not root's by AUTH_SYS, who alone may speak for it here: %s (%d)", name, s)
	case !known:
		return fmt.Sprintf("NFSv4 status %d", s)
	}
	return fmt.Sprintf("%s (%d)", name, s)
}

// refused reports whether the server refused with one of these.
func refused(err error, with ...nfsv4.Nfsstat4) bool {
	var answer status
	return errors.As(err, &answer) && slices.Contains(with, nfsv4.Nfsstat4(answer))
}

// timedOut prefers the context's error: a deadline that cut a call short shows up as one
// of several network errors.
func timedOut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return err
}

// How long a server that asks for patience is left alone (RFC 8881 section 15.1.1.3). Linux
// begins like this and goes up to 15 s; who evicts has a service waiting.
const (
	firstPause = 100 * time.Millisecond
	longPause  = time.Second
)

// insist repeats what the server does not do yet, and what somebody else's call came
// between, until the context ends.
func insist(ctx context.Context, work func() error) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := work()
		if !refused(err, nfsv4.NFS4ERR_DELAY, nfsv4.NFS4ERR_STALE_CLIENTID) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w; the server's last answer was %w", ctx.Err(), err)
		}
	}
}
