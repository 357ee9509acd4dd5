package oncrpctest

import (
	"encoding/binary"
	"math"
)

// Operations, by RFC 8881 section 18.
const (
	BindConn        = 41
	ExchangeID      = 42
	CreateSession   = 43
	DestroySession  = 44
	Sequence        = 53
	DestroyClientID = 57
)

// Call is a call's head, field by field.
type Call struct {
	XID, Type, RPC, Program, Version, Procedure uint32
	Flavor                                      uint32
	Cred                                        []byte
	VerfFlavor                                  uint32
	Verf                                        []byte
	Tag                                         []byte
	Minor, Count, Op                            uint32
	Args                                        []byte
}

// NewCall is a COMPOUND as Linux sends it, that begins with an operation.
func NewCall(xid, op uint32, args []byte) Call {
	call := Call{XID: xid, RPC: 2, Program: 100003, Version: 4, Procedure: 1, Flavor: 1, Cred: SysCred("host-a"), Minor: 1, Count: 1, Op: op, Args: args}
	if op == Sequence {
		call.Count = 3
	}
	return call
}

// SysCred is AUTH_SYS's body: stamp, machine name, uid, gid, no more groups (RFC 5531 appendix A).
func SysCred(machine string) []byte {
	cred := append(words(7), opaque([]byte(machine))...)
	return append(cred, words(0, 0, 0)...)
}

// Owner are EXCHANGE_ID's arguments: verifier, owner, flags, no state protection, no
// implementation id.
func Owner(owner string) []byte {
	args := append([]byte("verifier"), opaque([]byte(owner))...)
	return append(args, words(0x103, 0, 0)...)
}

// Message is the call without record marks.
func (c Call) Message() []byte {
	m := words(c.XID, c.Type, c.RPC, c.Program, c.Version, c.Procedure)
	m = append(append(m, words(c.Flavor)...), opaque(c.Cred)...)
	m = append(append(m, words(c.VerfFlavor)...), opaque(c.Verf)...)
	if c.Procedure == 0 {
		return m
	}
	m = append(m, opaque(c.Tag)...)
	m = append(m, words(c.Minor, c.Count, c.Op)...)
	return append(m, c.Args...)
}

// Record is the call as one record of one fragment.
func (c Call) Record() []byte { return Fragments(c.Message(), math.MaxInt) }

// Reply is a record that answers a call, with a body of some size.
func Reply(xid uint32, size int) []byte {
	return Fragments(append(words(xid, 1), make([]byte, size)...), math.MaxInt)
}

// Fragments makes a record of a message, in fragments of a size.
func Fragments(message []byte, size int) (record []byte) {
	for len(message) > size {
		record = append(append(record, words(uint32(size))...), message[:size]...)
		message = message[size:]
	}
	return append(append(record, words(1<<31|uint32(len(message)))...), message...)
}

func words(values ...uint32) (data []byte) {
	for _, value := range values {
		data = binary.BigEndian.AppendUint32(data, value)
	}
	return data
}

func opaque(data []byte) []byte {
	padded := append(words(uint32(len(data))), data...)
	return append(padded, make([]byte, -len(data)&3)...)
}
