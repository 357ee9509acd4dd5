package oncrpctest

import (
	"encoding/binary"
	"slices"
)

// Whole is a message that a stream has to its end.
type Whole struct {
	Message []byte
	// End is where in the stream the next one begins.
	End int
}

// Split joins the fragments of all messages that a stream has to their end.
func Split(stream []byte) (all []Whole) {
	var message []byte
	for at := 0; at+4 <= len(stream); {
		mark := binary.BigEndian.Uint32(stream[at:])
		at += 4
		size := int(mark & 0x7fffffff)
		if size > len(stream)-at {
			break
		}
		message = append(message, stream[at:at+size]...)
		at += size
		if mark>>31 == 1 {
			all = append(all, Whole{message, at})
			message = nil
		}
	}
	return all
}

// Meaning is what a whole message is: ordinary, or what operation, or nothing that is known.
type Meaning struct {
	Known bool
	Reply bool
	XID   uint32
	Op    uint32 // ExchangeID, CreateSession, else 0
	Owner string
}

// Read says what a whole message is. It counts words; an index beyond the end means that the
// message is not known.
func Read(message []byte) (meaning Meaning) {
	defer func() {
		if recover() != nil {
			meaning = Meaning{}
		}
	}()
	message = slices.Clip(message) // nothing is read beyond it
	at := 0
	word := func() uint32 {
		at += 4
		return binary.BigEndian.Uint32(message[at-4 : at])
	}
	opaque := func(limit int) string {
		size := int(word())
		if size > limit {
			panic("too long")
		}
		start := at
		at += (size + 3) / 4 * 4
		return string(message[start:at][:size])
	}
	must := func(is bool) {
		if !is {
			panic("not known")
		}
	}
	known := Meaning{Known: true, XID: word()}
	if kind := word(); kind == 1 {
		known.Reply = true
		return known
	} else if kind != 0 {
		return Meaning{}
	}
	must(word() == 2 && word() == 100003 && word() == 4)
	procedure := word()
	if procedure == 0 {
		return known
	}
	must(procedure == 1 && word() <= 1)
	opaque(400)
	word()
	opaque(400)
	opaque(len(message))
	minor, count, op := word(), word(), word()
	must(minor == 1 || minor == 2)
	must(op == Sequence && count > 0 || count == 1)
	switch op {
	case ExchangeID:
		at += 8
		known.Owner = opaque(1024)
		known.Op = op
	case CreateSession:
		known.Op = op
	case Sequence, BindConn, DestroySession, DestroyClientID:
	default:
		return Meaning{}
	}
	return known
}
