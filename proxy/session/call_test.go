package session_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

func words(words ...uint32) []byte {
	var message []byte
	for _, word := range words {
		message = binary.BigEndian.AppendUint32(message, word)
	}
	return message
}

func xidOf(message []byte) uint32 { return binary.BigEndian.Uint32(message) }

// refusal is a COMPOUND's reply with one result, SEQUENCE's or another's.
func refusal(xid uint32, operation nfsv4.NfsOpnum4, compound, result nfsv4.Nfsstat4) []byte {
	return words(xid, 1, 0, 0, 0, 0, uint32(compound), 0, 1, uint32(operation), uint32(result))
}

// The calls word for word, by RFC 5531 section 9 and RFC 8881 sections 18.35.1 and 18.36.1.
func TestCallsAreAsTheRFCsHaveThem(t *testing.T) {
	header := func(operation uint32) []byte {
		return bytes.Join([][]byte{
			words(0, 2, 100003, 4, 1),               // CALL, RPC version 2, NFS, version 4, COMPOUND
			words(1, 40, 0, 17),                     // AUTH_SYS, its length, stamp, the machine's length
			[]byte("docker-volume-efs\x00\x00\x00"), // machine
			words(0, 0, 0),                          // uid, gid, no further groups
			words(0, 0),                             // AUTH_NONE
			words(0, 1, 1, operation),               // no tag, minor version 1, one operation
		}, nil)
	}
	channel := words(0, 4096, 4096, 4096, 2, 1, 0)
	server := sessiontest.New()
	server.Made = 0x1_0000_0002
	var calls [][]byte
	xids := map[uint32]bool{}
	conn := sessiontest.Pipe(t, func(conn net.Conn) {
		for {
			message, err := sessiontest.ReadMessage(conn)
			if err != nil {
				return
			}
			calls = append(calls, message[4:])
			xids[xidOf(message)] = true
			reply, _ := server.Answer(conn, message)
			_, _ = conn.Write(reply)
		}
	})
	if err := session.Evict(t.Context(), conn, "Linux"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if len(calls) != 4 || len(xids) != 4 {
		t.Fatalf("%d calls, %d xids", len(calls), len(xids))
	}
	verifier := len(header(42))
	clear(calls[0][verifier : verifier+8])
	for i, want := range [][]byte{
		// verifier, owner, flags, SP4_NONE, no implementation
		bytes.Join([][]byte{header(42), words(0, 0, 5), []byte("Linux\x00\x00\x00"), words(0, 0, 0)}, nil),
		// client, sequence, flags, channels, callback program, one AUTH_NONE
		bytes.Join([][]byte{header(43), words(1, 3, 7, 0), channel, channel, words(0, 1, 0)}, nil),
		bytes.Join([][]byte{header(44), {4, 0xbb}, make([]byte, 14)}, nil),
		bytes.Join([][]byte{header(57), words(1, 3)}, nil),
	} {
		if !bytes.Equal(calls[i], want) {
			t.Errorf("call %d is\n% x, want\n% x", i, calls[i], want)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	const exchangeID = 42
	entered := &nfsv4.NfsResop4_OP_EXCHANGE_ID{OpexchangeId: &nfsv4.ExchangeId4res_NFS4_OK{
		EirResok4: nfsv4.ExchangeId4resok{EirStateProtect: &nfsv4.StateProtect4R_SP4_NONE{}},
	}}
	for _, row := range []struct {
		name  string
		reply func(xid uint32) []byte
		says  string
	}{
		{"it closes at once", func(uint32) []byte { return nil }, "it closed the connection"},
		{"it closes in the record mark", func(uint32) []byte { return []byte{0x80, 0} }, "it closed the connection"},
		{"it closes in the answer", func(xid uint32) []byte {
			return sessiontest.Fragment(true, refusal(xid, exchangeID, 10008, 10008))[:20]
		}, "it closed the connection"},
		{"it closes between two fragments", func(xid uint32) []byte {
			return sessiontest.Fragment(false, refusal(xid, exchangeID, 10008, 10008))
		}, "it closed the connection"},
		{"it speaks HTTP", func(uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, "no RPC reply"},
		{"it sends an empty record", func(uint32) []byte { return sessiontest.Fragment(true, nil) }, "no RPC reply"},
		{"it announces more than we read", func(uint32) []byte { return words(1<<31 | session.MaxReply) }, "no RPC reply"},
		{"it sends more than we read in small fragments", func(uint32) []byte {
			return bytes.Repeat(sessiontest.Fragment(false, make([]byte, 1024)), session.MaxReply/1024)
		}, "no RPC reply"},
		{"it sends empty fragments for ever", func(uint32) []byte { return make([]byte, session.MaxReply+4) }, "no RPC reply"},
		{"it answers another call", func(xid uint32) []byte {
			return sessiontest.Fragment(true, refusal(xid+1, exchangeID, 10008, 10008))
		}, "no RPC reply"},
		{"it answers with a call", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 0, 2, 100003, 4, 0, 0, 0, 0, 0))
		}, "no RPC reply"},
		{"it sends a verifier longer than the answer", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0xfffffffc, 0, 0, 0))
		}, "no RPC reply"},
		{"it does not serve NFS", func(xid uint32) []byte { return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 1)) }, "refused the call"},
		{"it serves NFSv3 only", func(xid uint32) []byte { return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 2, 2, 3)) }, "refused the call"},
		{"it refuses the RPC version", func(xid uint32) []byte { return sessiontest.Fragment(true, words(xid, 1, 1, 0, 2, 2)) }, "refused the call"},
		{"it refuses the caller", func(xid uint32) []byte { return sessiontest.Fragment(true, words(xid, 1, 1, 1, 5)) }, "refused the call"},
		{"it says success and no more", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 0))
		}, "not one to the operation"},
		{"it sends no result", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 0, 0, 0, 0))
		}, "not one to the operation"},
		{"it announces four billion results", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 0, 0, 0, 0xffffffff))
		}, "not one to the operation"},
		{"it announces a tag of four billion letters", func(xid uint32) []byte {
			return sessiontest.Fragment(true, words(xid, 1, 0, 0, 0, 0, 0, 0xffffffff))
		}, "not one to the operation"},
		{"it sends the result of an operation that there is not", func(xid uint32) []byte {
			return sessiontest.Fragment(true, refusal(xid, 4711, 0, 0))
		}, "not one to the operation"},
		{"it sends another operation's result", func(xid uint32) []byte {
			return sessiontest.Fragment(true, refusal(xid, nfsv4.OP_DESTROY_CLIENTID, 0, 0))
		}, "not one to the operation"},
		{"it sends two results", func(xid uint32) []byte {
			return sessiontest.Success(xid, &nfsv4.Compound4res{Resarray: []nfsv4.NfsResop4{entered, entered}})
		}, "not one to the operation"},
		{"it says that all went well, and that this did not", func(xid uint32) []byte {
			return sessiontest.Fragment(true, refusal(xid, exchangeID, 0, 10006))
		}, "not one to the operation"},
		{"it cuts the result", func(xid uint32) []byte {
			return sessiontest.Fragment(true, append(refusal(xid, exchangeID, 0, 0), words(0, 5, 1)...))
		}, "not one to the operation"},
		{"it sends more than the result", func(xid uint32) []byte {
			return sessiontest.Fragment(true, append(refusal(xid, exchangeID, 10008, 10008), words(0)...))
		}, "not one to the operation"},
	} {
		t.Run(row.name, func(t *testing.T) {
			conn := sessiontest.Pipe(t, func(conn net.Conn) {
				message, err := sessiontest.ReadMessage(conn)
				if err == nil {
					_, _ = conn.Write(row.reply(xidOf(message)))
				}
			})
			err := session.Evict(t.Context(), conn, kernel)
			if !errors.Is(err, proxy.ErrNotNFS) || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Evict: %v, want one line that says %q", err, row.says)
			}
		})
	}
}

// Each operation has a result of its own that can contradict the whole's.
func TestResultsThatContradictTheWhole(t *testing.T) {
	for _, operation := range []nfsv4.NfsOpnum4{
		nfsv4.OP_EXCHANGE_ID, nfsv4.OP_CREATE_SESSION, nfsv4.OP_SEQUENCE, nfsv4.OP_BIND_CONN_TO_SESSION,
		nfsv4.OP_DESTROY_SESSION, nfsv4.OP_DESTROY_CLIENTID,
	} {
		name := strings.TrimPrefix(nfsv4.NfsOpnum4_name[operation], "OP_")
		t.Run(name, func(t *testing.T) {
			server := sessiontest.New()
			server.AsksToBind = operation == nfsv4.OP_BIND_CONN_TO_SESSION
			_, err := session.Shared(t.Context(), contradicting(t, server, operation), contradicting(t, server, operation), canary)
			if !errors.Is(err, proxy.ErrNotNFS) || !strings.Contains(err.Error(), "not one to the operation") {
				t.Errorf("Shared: %v", err)
			}
		})
	}
}

// contradicting is a connection to a server that says NFS4ERR_IO of an operation that went well.
func contradicting(t *testing.T, server *sessiontest.Server, operation nfsv4.NfsOpnum4) net.Conn {
	return sessiontest.Pipe(t, func(conn net.Conn) {
		for {
			message, err := sessiontest.ReadMessage(conn)
			if err != nil {
				return
			}
			reply, err := server.Answer(conn, message)
			if err != nil {
				t.Error(err)
				return
			}
			if binary.BigEndian.Uint32(reply[40:]) == uint32(operation) {
				reply = sessiontest.Fragment(true, refusal(xidOf(message), operation, 0, 5))
			}
			_, _ = conn.Write(reply)
		}
	})
}

// Answers to SEQUENCE and BIND_CONN_TO_SESSION that are about another session, request or slot.
func TestResultsOfAnotherRequest(t *testing.T) {
	for _, row := range []struct {
		name   string
		binds  bool
		offset int // in the record: 4 bytes mark, 24 header, 16 of the COMPOUND, 4 status
	}{
		{"another session", false, 48},
		{"another request", false, 48 + 16 + 3},
		{"another slot", false, 48 + 20 + 3},
		{"another session was bound", true, 48},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := sessiontest.New()
			server.AsksToBind = row.binds
			operation := nfsv4.OP_SEQUENCE
			if row.binds {
				operation = nfsv4.OP_BIND_CONN_TO_SESSION
			}
			second := sessiontest.Pipe(t, func(conn net.Conn) {
				for {
					message, err := sessiontest.ReadMessage(conn)
					if err != nil {
						return
					}
					reply, _ := server.Answer(conn, message)
					if binary.BigEndian.Uint32(reply[40:]) == uint32(operation) && len(reply) > 48 {
						reply[row.offset] ^= 1
					}
					_, _ = conn.Write(reply)
				}
			})
			shared, err := session.Shared(t.Context(), server.Connect(t), second, canary)
			if shared || !errors.Is(err, proxy.ErrNotNFS) {
				t.Errorf("Shared = %v, %v", shared, err)
			}
		})
	}
}

// Records come in fragments, and the bytes as the network pleases.
func TestAnswersInPieces(t *testing.T) {
	for _, size := range []int{1, 3, 4, 50} {
		t.Run(fmt.Sprintf("of %d bytes", size), func(t *testing.T) {
			server := sessiontest.New()
			server.Mount(kernel, 0)
			conn := sessiontest.Pipe(t, func(conn net.Conn) {
				for {
					message, err := sessiontest.ReadMessage(conn)
					if err != nil {
						return
					}
					reply, _ := server.Answer(conn, message)
					for rest := reply[4:]; len(rest) > 0; {
						n := min(size, len(rest))
						_, _ = conn.Write(sessiontest.Fragment(n == len(rest), rest[:n]))
						rest = rest[n:]
					}
				}
			})
			if err := session.Evict(t.Context(), conn, kernel); err != nil {
				t.Fatal(err)
			}
			if clients, _ := server.Has(kernel); clients > 0 {
				t.Error("not evicted")
			}
		})
	}
}

func FuzzReadRecord(f *testing.F) {
	f.Add(sessiontest.Fragment(true, []byte("one")))
	f.Add(append(sessiontest.Fragment(false, []byte("one")), sessiontest.Fragment(true, []byte(" two"))...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add(make([]byte, 400))
	f.Fuzz(func(t *testing.T, sent []byte) {
		reader := bytes.NewReader(sent)
		record, err := session.ReadRecord(reader)
		if err != nil {
			if !errors.Is(err, proxy.ErrNotNFS) {
				t.Fatal(err)
			}
			return
		}
		read := sent[:len(sent)-reader.Len()]
		if len(read) > session.MaxReply || len(record) > len(read)-4 {
			t.Fatalf("%d bytes of %d", len(record), len(read))
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	const xid = 7
	server := sessiontest.New()
	message := words(xid, 0, 2, 100003, 4, 1, 1, 24, 0, 1, 'x'<<24, 0, 0, 0, 0, 0, 0, 1, 1)
	for _, args := range [][]byte{
		words(42, 0, 0, 4, 'a'<<24, 0, 0, 0),
		append(words(43, 0, 1, 7, 0), words(0, 4096, 4096, 4096, 2, 1, 0, 0, 4096, 4096, 4096, 2, 1, 0, 0, 1, 0)...),
		append(words(53), append([]byte{2, 0xbb}, append(make([]byte, 14), words(1, 0, 0, 0)...)...)...),
		append(words(44), append([]byte{2, 0xbb}, make([]byte, 14)...)...),
		words(57, 0, 1),
	} {
		reply, err := server.Answer(nil, append(slices.Clip(message), args...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(reply[4:], int32(binary.BigEndian.Uint32(args)))
	}
	f.Add(refusal(xid, nfsv4.OP_SEQUENCE, nfsv4.NFS4ERR_BADSESSION, nfsv4.NFS4ERR_BADSESSION), int32(nfsv4.OP_SEQUENCE))
	f.Add(words(xid, 1, 0, 0, 0, 0, 0, 0, 0xffffffff), int32(0))
	f.Add(words(xid, 1, 1, 1, 5), int32(0))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), int32(0))
	f.Fuzz(func(t *testing.T, reply []byte, operation int32) {
		result, err := session.DecodeReply(reply, xid, nfsv4.NfsOpnum4(operation))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		// What is taken says the same again: nothing was passed over.
		var again bytes.Buffer
		if _, err := result.WriteTo(&again); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(reply, again.Bytes()) || result.GetResop() != nfsv4.NfsOpnum4(operation) {
			t.Fatalf("% x was taken for % x", reply, again.Bytes())
		}
	})
}
