package oncrpc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
)

// but is a call with one thing changed.
func but(op uint32, change func(*oncrpctest.Call)) []byte {
	call := oncrpctest.NewCall(7, op, make([]byte, 40))
	if op == oncrpctest.ExchangeID {
		call.Args = oncrpctest.Owner("Linux NFSv4.1 host-a")
	}
	if change != nil {
		change(&call)
	}
	return call.Message()
}

var (
	ordinary   = oncrpc.Head{XID: 7}
	introduces = oncrpc.Head{XID: 7, Kind: oncrpc.ExchangeID, Owner: []byte("Linux NFSv4.1 host-a")}
	asks       = oncrpc.Head{XID: 7, Kind: oncrpc.CreateSession}
)

func TestHeads(t *testing.T) {
	long := strings.Repeat("x", 1025)
	for _, c := range []struct {
		name    string
		message []byte
		want    oncrpc.Head // zero: unknown
	}{
		{"a call within a session", but(oncrpctest.Sequence, nil), ordinary},
		{"one that introduces the client", but(oncrpctest.ExchangeID, nil), introduces},
		{"one that asks for a session", but(oncrpctest.CreateSession, nil), asks},
		{"one that binds a connection", but(oncrpctest.BindConn, nil), ordinary},
		{"one that ends a session", but(oncrpctest.DestroySession, nil), ordinary},
		{"one that ends the client", but(oncrpctest.DestroyClientID, nil), ordinary},
		{"minor version 2", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Minor = 2 }), asks},
		{"AUTH_NONE", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Flavor, c.Cred = 0, nil }), asks},
		{"the longest credentials", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Cred, c.Verf = make([]byte, 400), make([]byte, 400) }), asks},
		{"a tag of odd length", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Tag = []byte("mount") }), asks},
		{"a long tag", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Tag = make([]byte, 3000) }), asks},
		{"an owner without a name", but(oncrpctest.ExchangeID, func(c *oncrpctest.Call) { c.Args = oncrpctest.Owner("") }), oncrpc.Head{XID: 7, Kind: oncrpc.ExchangeID}},
		{"the longest owner", but(oncrpctest.ExchangeID, func(c *oncrpctest.Call) { c.Args = oncrpctest.Owner(long[:1024]) }), oncrpc.Head{XID: 7, Kind: oncrpc.ExchangeID, Owner: []byte(long[:1024])}},
		{"NULL", but(0, func(c *oncrpctest.Call) { c.Procedure = 0 }), ordinary},
		{"NULL that asks for TLS", but(0, func(c *oncrpctest.Call) { c.Procedure, c.Flavor, c.Cred = 0, 7, nil }), ordinary},
		{"a reply to what the server called", but(0, func(c *oncrpctest.Call) { c.Type, c.RPC = 1, 0 }), ordinary},

		{"neither call nor reply", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Type = 2 }), oncrpc.Head{}},
		{"another version of RPC", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.RPC = 3 }), oncrpc.Head{}},
		{"another program", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Program = 100227 }), oncrpc.Head{}},
		{"NFSv3", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Version = 3 }), oncrpc.Head{}},
		{"an unknown procedure", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Procedure = 2 }), oncrpc.Head{}},
		{"RPCSEC_GSS", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Flavor = 6 }), oncrpc.Head{}},
		{"credentials that are too long", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Cred = make([]byte, 404) }), oncrpc.Head{}},
		{"a verifier that is too long", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Verf = make([]byte, 404) }), oncrpc.Head{}},
		{"a tag beyond the limit", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Tag = make([]byte, 4050) }), oncrpc.Head{}},
		{"an owner that is too long", but(oncrpctest.ExchangeID, func(c *oncrpctest.Call) { c.Args = oncrpctest.Owner(long) }), oncrpc.Head{}},
		{"minor version 0, which has no sessions", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Minor = 0 }), oncrpc.Head{}},
		{"minor version 3", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Minor = 3 }), oncrpc.Head{}},
		{"no operation", but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Count = 0 }), oncrpc.Head{}},
		{"an operation without a session", but(22, nil), oncrpc.Head{}},
		{"SETCLIENTID", but(35, nil), oncrpc.Head{}},
		{"EXCHANGE_ID that is not alone", but(oncrpctest.ExchangeID, func(c *oncrpctest.Call) { c.Count = 2 }), oncrpc.Head{}},
		{"CREATE_SESSION that is not alone", but(oncrpctest.CreateSession, func(c *oncrpctest.Call) { c.Count = 2 }), oncrpc.Head{}},
		{"an end within the head", but(oncrpctest.Sequence, nil)[:60], oncrpc.Head{}},
		{"an end within the owner", but(oncrpctest.ExchangeID, nil)[:112], oncrpc.Head{}},
		{"no message at all", nil, oncrpc.Head{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if naive := oncrpctest.Read(c.message); naive.Known != (c.want.XID != 0) && len(c.message) < oncrpc.HeadLimit {
				t.Errorf("read in the plain way it is %+v", naive)
			}
			for _, size := range []int{math.MaxInt, 100, 4, 3, 1} {
				stream := oncrpctest.Fragments(c.message, size)
				if size < 100 && len(stream) > oncrpc.HeadLimit {
					continue // it is the limit's then
				}
				if !goesOn(t, append(stream, "more"...), c.want) {
					t.Errorf("in fragments of %d bytes", size)
				}
			}
		})
	}
}

// goesOn reads all beginnings of a stream: the head is short, and then what it stays.
func goesOn(t *testing.T, stream []byte, want oncrpc.Head) bool {
	t.Helper()
	step := 1 + len(stream)/1000
	known := false
	for n := 0; n <= len(stream); n += step {
		if n+step > len(stream) {
			n = len(stream)
		}
		head, err := oncrpc.ReadHead(stream[:n])
		switch {
		case errors.Is(err, oncrpc.ErrShort) && !known && n < len(stream):
			continue
		case want.XID == 0 && errors.Is(err, oncrpc.ErrUnknown), want.XID != 0 && err == nil && same(head, want):
			known = true
		default:
			t.Errorf("after %d of %d bytes: %+v, %v; want %+v", n, len(stream), head, err, want)
			return false
		}
	}
	return known
}

func same(a, b oncrpc.Head) bool {
	return a.XID == b.XID && a.Kind == b.Kind && bytes.Equal(a.Owner, b.Owner)
}

func TestAHeadThatTakesTooManyFragmentsIsUnknown(t *testing.T) {
	for name, stream := range map[string][]byte{
		"of a byte":    oncrpctest.Fragments(but(oncrpctest.Sequence, func(c *oncrpctest.Call) { c.Cred, c.Verf = make([]byte, 400), make([]byte, 400) }), 1),
		"without any":  make([]byte, oncrpc.HeadLimit),
		"of the limit": make([]byte, oncrpc.HeadLimit-1),
	} {
		want := oncrpc.ErrUnknown
		if len(stream) < oncrpc.HeadLimit {
			want = oncrpc.ErrShort
		}
		if _, err := oncrpc.ReadHead(stream); !errors.Is(err, want) {
			t.Errorf("fragments %s: %v, want %v", name, err, want)
		}
	}
}

func TestReadingAHeadTakesNoMemory(t *testing.T) {
	stream := oncrpctest.NewCall(7, oncrpctest.Sequence, make([]byte, 1<<20)).Record()
	if times := testing.AllocsPerRun(100, func() { _, _ = oncrpc.ReadHead(stream) }); times > 0 {
		t.Errorf("%.0f allocations", times)
	}
}

func FuzzReadHead(f *testing.F) {
	for _, message := range [][]byte{but(oncrpctest.Sequence, nil), but(oncrpctest.ExchangeID, nil), but(oncrpctest.CreateSession, nil)} {
		for _, size := range []int{math.MaxInt, 50, 3, 1} {
			f.Add(oncrpctest.Fragments(message, size), uint16(90))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		head, err := oncrpc.ReadHead(stream)
		before, early := oncrpc.ReadHead(stream[:min(int(cut), len(stream))])
		if !errors.Is(early, oncrpc.ErrShort) && (!same(before, head) || (early == nil) != (err == nil)) {
			t.Fatalf("%+v, %v; with more bytes %+v, %v", before, early, head, err)
		}
		all := oncrpctest.Split(stream)
		if len(all) == 0 {
			return
		}
		want := oncrpctest.Read(all[0].Message)
		switch {
		case err == nil && (!want.Known || head.XID != want.XID || string(head.Owner) != want.Owner ||
			(head.Kind == oncrpc.ExchangeID) != (want.Op == oncrpctest.ExchangeID) ||
			(head.Kind == oncrpc.CreateSession) != (want.Op == oncrpctest.CreateSession)):
			t.Fatalf("%+v; read in the plain way it is %+v", head, want)
		case err != nil && want.Known && all[0].End < oncrpc.HeadLimit:
			t.Fatalf("%v; read in the plain way it is %+v", err, want)
		}
		answer := head.Dismissal()
		if answers := oncrpctest.Split(answer); answer != nil && (len(answers) != 1 || answers[0].End != len(answer) || !bytes.HasPrefix(answer[4:], binary.BigEndian.AppendUint32(nil, head.XID))) {
			t.Fatalf("%+v is answered %x", head, answer)
		}
	})
}
