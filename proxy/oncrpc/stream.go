package oncrpc

import "encoding/binary"

// A record mark is a word before each fragment of a message: the highest bit says that it is
// the last one, the others how long it is (RFC 5531 section 11).
const (
	markSize     = 4
	lastFragment = 1 << 31
)

// Message follows one message through its fragments. The zero value stands before its first
// record mark.
type Message struct {
	mark   [markSize]byte
	marked int    // how much of the mark has come
	left   uint32 // of the fragment, once its mark has come
	last   bool
}

// Next takes from data, which is not empty, either bytes of a record mark or bytes of one
// fragment. It returns what of it is the message's own, how much it took, and whether the
// message is over; then m stands before the next one.
func (m *Message) Next(data []byte) (own []byte, n int, over bool) {
	if m.marked < markSize {
		n = copy(m.mark[m.marked:], data)
		if m.marked += n; m.marked < markSize {
			return nil, n, false
		}
		mark := binary.BigEndian.Uint32(m.mark[:])
		m.left, m.last = mark&^lastFragment, mark&lastFragment != 0
		return nil, n, m.turn()
	}
	n = int(min(uint64(m.left), uint64(len(data))))
	return data[:n], n, m.skip(uint32(n))
}

// Pass takes all from data that belongs to the message, and reports whether that is over.
func (m *Message) Pass(data []byte) (n int, over bool) {
	for n < len(data) && !over {
		var taken int
		_, taken, over = m.Next(data[n:])
		n += taken
	}
	return n, over
}

func (m *Message) skip(n uint32) (over bool) {
	m.left -= n
	return m.turn()
}

// turn goes on to the next mark at the end of a fragment.
func (m *Message) turn() (over bool) {
	if m.left > 0 {
		return false
	}
	m.marked = 0
	return m.last
}

// replyHead is what of a message tells the reply from a call the other way, and to what it is
// the reply: xid and type (RFC 5531 section 9).
const replyHead = 8

// Replies follows a stream of messages of which only the replies' xids matter. The zero value
// stands at the stream's beginning.
type Replies struct {
	message Message
	head    [replyHead]byte
	have    int // of the head of the message under way
}

// Next takes bytes up to and with the first ones by which a reply can be told, and returns how
// many, and the reply's xid. If there are none it takes all.
func (r *Replies) Next(data []byte) (n int, xid uint32, found bool) {
	for n < len(data) {
		rest := data[n:]
		if r.have < replyHead {
			rest = rest[:min(len(rest), replyHead-r.have)]
		}
		own, taken, over := r.message.Next(rest)
		n += taken
		if r.have < replyHead {
			r.have += copy(r.head[r.have:], own)
			found = r.have == replyHead && binary.BigEndian.Uint32(r.head[4:]) == rpcReply
		}
		if over {
			r.have = 0
		}
		if found {
			return n, binary.BigEndian.Uint32(r.head[:]), true
		}
	}
	return n, 0, false
}

// Body is how many of the bytes that come next need no look: no message begins among them.
func (r *Replies) Body() int64 {
	if r.have < replyHead || r.message.marked < markSize {
		return 0
	}
	return int64(r.message.left)
}

// Skip tells of bytes that went by without a look, at most as many as Body said.
func (r *Replies) Skip(n int64) {
	if n > 0 && r.message.skip(uint32(n)) {
		r.have = 0
	}
}
