package oncrpc_test

import (
	"math"
	"slices"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
)

// found reads replies from a stream in pieces of a size, and skips what needs no look if asked.
func found(stream []byte, size int, skip bool) (xids []uint32) {
	var replies oncrpc.Replies
	for len(stream) > 0 {
		if body := min(int(replies.Body()), len(stream)); skip && body > 0 {
			replies.Skip(int64(body))
			stream = stream[body:]
			continue
		}
		n, xid, is := replies.Next(stream[:min(size, len(stream))])
		if is {
			xids = append(xids, xid)
		}
		stream = stream[n:]
	}
	return xids
}

// wanted are the replies in a stream, read in the plain way.
func wanted(stream []byte) (xids []uint32) {
	for _, whole := range oncrpctest.Split(stream) {
		if meaning := oncrpctest.Read(whole.Message); meaning.Reply {
			xids = append(xids, meaning.XID)
		}
	}
	return xids
}

func TestRepliesAreFoundHoweverTheyCome(t *testing.T) {
	callback := oncrpctest.NewCall(2, 11, make([]byte, 50))
	callback.Program = 0x40000000
	for _, fragment := range []int{math.MaxInt, 100, 5, 1} {
		var stream []byte
		for _, record := range [][]byte{
			oncrpctest.Reply(1, 1000), callback.Record(), oncrpctest.Reply(3, 0),
			{0x80, 0, 0, 0},
			{0x80, 0, 0, 4, 1, 2, 3, 4},
			oncrpctest.Reply(4, 5000), oncrpctest.Reply(5, 1),
		} {
			for _, whole := range oncrpctest.Split(record) {
				stream = append(stream, oncrpctest.Fragments(whole.Message, fragment)...)
			}
		}
		for _, piece := range []int{1, 3, 8, 12, 500, math.MaxInt} {
			for _, skip := range []bool{false, true} {
				if got := found(stream, piece, skip); !slices.Equal(got, []uint32{1, 3, 4, 5}) {
					t.Errorf("fragments of %d bytes, read in pieces of %d, skipped %t: %v", fragment, piece, skip, got)
				}
			}
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add(append(oncrpctest.Reply(1, 30), oncrpctest.Reply(2, 4)...), uint8(3), true)
	f.Add(oncrpctest.Fragments([]byte("reply, not really"), 2), uint8(1), false)
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8, skip bool) {
		// A reply that is not whole is found as well, and one at most is not.
		got, want := found(stream, int(piece)+1, skip), wanted(stream)
		if len(got) < len(want) || len(got) > len(want)+1 || !slices.Equal(got[:len(want)], want) {
			t.Fatalf("found %v, want %v", got, want)
		}
	})
}
