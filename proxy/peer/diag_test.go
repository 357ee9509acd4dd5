package peer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/peer"
)

var (
	here  = netip.MustParseAddrPort("127.0.0.1:2049")
	there = netip.MustParseAddrPort("127.0.0.1:800")
)

// recorded is an answer as the kernel gives it: root, inode 4242, group 1.
func recorded() []byte {
	message := make([]byte, 16+72)
	binary.NativeEndian.PutUint16(message[4:], 20)
	binary.NativeEndian.PutUint32(message[8:], 1)
	body := message[16:]
	body[0], body[1] = 2, 1
	binary.BigEndian.PutUint16(body[4:], there.Port())
	binary.BigEndian.PutUint16(body[6:], here.Port())
	copy(body[8:], there.Addr().AsSlice())
	copy(body[24:], here.Addr().AsSlice())
	binary.NativeEndian.PutUint32(body[68:], 4242)
	for _, attribute := range [][]byte{{0}, {1, 0, 0, 0, 0, 0, 0, 0}} {
		head := make([]byte, 4)
		binary.NativeEndian.PutUint16(head, uint16(4+len(attribute)))
		binary.NativeEndian.PutUint16(head[2:], uint16(8+13*(len(attribute)/8)))
		message = append(append(message, head...), attribute...)
		message = append(message, make([]byte, (4-len(message)%4)%4)...)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	return message
}

func TestAnAnswerIsReadOrRefused(t *testing.T) {
	if got, err := peer.Parse(recorded(), there, here); err != nil || got != (peer.Socket{Inode: 4242, Cgroup: 1, HasCgroup: true}) {
		t.Fatalf("%s, %v", got, err)
	}
	if got, err := peer.Parse(recorded(), here, there); !errors.Is(err, peer.ErrNoSocket) {
		t.Errorf("the wrong way round: %s, %v", got, err)
	}
	for n := range len(recorded()) {
		if got, err := peer.Parse(recorded()[:n], there, here); err == nil {
			t.Errorf("the first %d bytes: %s", n, got)
		}
	}
	for _, change := range []struct{ at, to byte }{{4, 3}, {8, 2}, {16, 9}, {21, 9}, {24, 9}} {
		message := recorded()
		message[change.at] = change.to
		if got, err := peer.Parse(message, there, here); err == nil {
			t.Errorf("byte %d as %d: %s", change.at, change.to, got)
		}
	}
}

// A length of nothing must not be read for ever.
func TestAttributesThatLieAboutTheirLengthTellNothing(t *testing.T) {
	for _, length := range []byte{0, 3, 200} {
		message := recorded()
		message[16+72] = length
		got, err := peer.Parse(message, there, here)
		if err != nil || got != (peer.Socket{Inode: 4242}) {
			t.Errorf("length %d: %s, %v", length, got, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(recorded())
	f.Add(recorded()[:88])
	f.Add(bytes.Repeat([]byte{0xff}, 200))
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, message []byte) {
		got, err := peer.Parse(message, there, here)
		if err != nil && got != (peer.Socket{}) {
			t.Fatalf("%v with %s", err, got)
		}
		if err == nil && len(message) < 88 {
			t.Fatalf("%s from %d bytes", got, len(message))
		}
		if got.Cgroup != 0 && !got.HasCgroup {
			t.Fatalf("%s", got)
		}
	})
}
