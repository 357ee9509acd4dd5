package oncrpc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort reports a head that is good as far as it goes and not whole yet.
var ErrShort = errors.New("the message's head is not whole")

// ErrUnknown reports a message that is none of NFSv4.1's, or is longer in its head than any
// sensible one. What follows in the stream cannot be told.
var ErrUnknown = errors.New("not a message of an NFSv4.1 client")

// HeadLimit is how much of a stream, record marks included, a message's head may take. The
// longest one without a tag takes 1.9 KiB: ten words, two authenticators of 400 bytes, and a
// client owner of 1 KiB.
const HeadLimit = 4 << 10

// What a head has (RFC 5531 section 9; RFC 8881 sections 16.1 and 16.2).
const (
	rpcCall, rpcReply = 0, 1
	rpcVersion        = 2
	nfsProgram        = 100003
	nfsVersion        = 4
	procNull          = 0
	procCompound      = 1
	// authNone and authSys leave the arguments legible. RPCSEC_GSS may not (RFC 2203).
	authNone, authSys = 0, 1
	maxAuth           = 400 // RFC 5531 section 8.2
)

// The operations that can begin a COMPOUND (RFC 8881 sections 18.34 to 18.37, 18.46 and 18.50).
// SEQUENCE names the session that all behind it belongs to, the others stand alone.
const (
	opBindConn        = 41
	opExchangeID      = 42
	opCreateSession   = 43
	opDestroySession  = 44
	opSequence        = 53
	opDestroyClientID = 57
)

const (
	verifierSize = 8    // NFS4_VERIFIER_SIZE, RFC 8881 section 3.1
	maxOwner     = 1024 // NFS4_OPAQUE_LIMIT, RFC 8881 section 3.1
)

// Kind is what a message is to somebody who looks for sessions.
type Kind int

const (
	// Ordinary is all that neither introduces a client nor asks for a session: calls within a
	// session, NULL, replies to what the server called.
	Ordinary Kind = iota
	// ExchangeID introduces a client to the server (RFC 8881 section 18.35).
	ExchangeID
	// CreateSession asks for a session (RFC 8881 section 18.36).
	CreateSession
)

// Head is what a message begins with.
type Head struct {
	XID  uint32
	Kind Kind
	// Owner is the client's name for itself (co_ownerid), of ExchangeID only. It is part of
	// the stream that was read, or a copy.
	Owner []byte

	// What a dismissal answers to. The tag is like Owner part of the stream or a copy.
	call      bool
	operation uint32 // 0: NULL has none
	tag       []byte
}

// ReadHead reads the head of the message that begins at a stream's beginning, with its first
// record mark. What is behind the head in the stream does not matter. Errors are [ErrShort],
// after which the same stream with more bytes may have a head, and [ErrUnknown].
func ReadHead(stream []byte) (Head, error) {
	limited := stream[:min(len(stream), HeadLimit)]
	message, over := begin(limited)
	head, err := parse(message)
	switch {
	case !errors.Is(err, ErrShort):
		return head, err
	case over:
		return Head{}, fmt.Errorf("%w: it ends within its head", ErrUnknown)
	case len(stream) >= HeadLimit:
		return Head{}, fmt.Errorf("%w: its head is longer than %d bytes", ErrUnknown, HeadLimit)
	}
	return Head{}, err
}

// begin returns what of a stream's first message is there, without record marks, and whether
// that is all of it. Only a message in several fragments is copied.
func begin(stream []byte) (message []byte, over bool) {
	var m Message
	copied := false
	for len(stream) > 0 && !over {
		var own []byte
		var n int
		own, n, over = m.Next(stream)
		switch stream = stream[n:]; {
		case len(own) == 0:
			continue
		case len(message) == 0:
			message = own
			continue
		case !copied:
			message = append(make([]byte, 0, len(message)+len(own)+len(stream)), message...)
			copied = true
		}
		message = append(message, own...)
	}
	return message, over
}

// parse reads a message without its record marks.
func parse(message []byte) (Head, error) {
	r := reader{rest: message}
	head := Head{XID: r.word()}
	switch kind := r.word(); {
	case r.err != nil || kind == rpcReply:
		return head, r.err
	case kind != rpcCall:
		return Head{}, unknown("message type", kind)
	}
	head.call = true
	r.want("RPC version", rpcVersion)
	r.want("program", nfsProgram)
	r.want("version", nfsVersion)
	switch procedure := r.word(); {
	case r.err != nil || procedure == procNull:
		return head, r.err
	case procedure != procCompound:
		return Head{}, unknown("procedure", procedure)
	}
	r.credentials()
	head.tag, head.operation = r.first()
	head.Kind = kindOf(head.operation)
	if head.Kind == ExchangeID {
		r.take(verifierSize)
		head.Owner = r.opaque("client owner", maxOwner)
	}
	if r.err != nil {
		return Head{}, r.err
	}
	return head, nil
}

func unknown(what string, value uint32) error {
	return fmt.Errorf("%w: %s %d", ErrUnknown, what, value)
}

// reader reads XDR (RFC 4506). After an error all is zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) take(n int) []byte {
	if r.err == nil && len(r.rest) < n {
		r.err = ErrShort
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) word() uint32 {
	if four := r.take(4); four != nil {
		return binary.BigEndian.Uint32(four)
	}
	return 0
}

func (r *reader) want(what string, value uint32) {
	if got := r.word(); got != value {
		r.fail(unknown(what, got))
	}
}

// opaque reads bytes with their length before them, padded to words.
func (r *reader) opaque(what string, limit uint32) []byte {
	size := r.word()
	if size > limit {
		r.fail(unknown("length of the "+what, size))
	}
	data := r.take(int(size))
	r.take(int(-size % 4))
	return data
}

// credentials reads who calls, and the verifier of that.
func (r *reader) credentials() {
	if flavor := r.word(); flavor != authNone && flavor != authSys {
		r.fail(unknown("kind of credentials", flavor))
	}
	r.opaque("credentials", maxAuth)
	r.word()
	r.opaque("verifier", maxAuth)
}

// first reads COMPOUND's own arguments and the number of its first operation.
func (r *reader) first() (tag []byte, operation uint32) {
	tag = r.opaque("tag", HeadLimit)
	// Minor version 0 knows no sessions; 2 begins one as 1 does (RFC 7862 section 1.1).
	if minor := r.word(); minor != 1 && minor != 2 {
		r.fail(unknown("minor version", minor))
	}
	count := r.word()
	if count == 0 {
		r.fail(unknown("number of operations", count))
	}
	operation = r.word()
	switch {
	case operation == opSequence:
	case count != 1:
		r.fail(unknown("first of several operations", operation))
	case r.err == nil && dismissalOf(operation) == 0:
		r.fail(unknown("first operation", operation))
	}
	return tag, operation
}

func kindOf(operation uint32) Kind {
	switch operation {
	case opExchangeID:
		return ExchangeID
	case opCreateSession:
		return CreateSession
	}
	return Ordinary
}
