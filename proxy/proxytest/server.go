package proxytest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Server is a listener on loopback and the connections that it has accepted.
type Server struct {
	// Addr is where it listens.
	Addr netip.AddrPort

	listener net.Listener
	running  sync.WaitGroup

	mu  sync.Mutex // guards the following field
	all []*net.TCPConn
}

// Serve accepts connections until the test ends or [Server.Stop] is called. It hands each
// to handle, and closes it after.
func Serve(t testing.TB, handle func(*net.TCPConn)) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: listener.Addr().(*net.TCPAddr).AddrPort(), listener: listener}
	s.running.Go(func() { s.accept(handle) })
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) accept(handle func(*net.TCPConn)) {
	for {
		accepted, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a client that was gone before it was accepted
		}
		conn := accepted.(*net.TCPConn)
		s.mu.Lock()
		s.all = append(s.all, conn)
		s.mu.Unlock()
		s.running.Go(func() {
			defer conn.Close()
			handle(conn)
		})
	}
}

// Stop resets all connections, refuses new ones, and waits for what handles them.
func (s *Server) Stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	for _, conn := range s.all {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Words of NFS's NULL call and of its answer (RFC 5531 sections 9 and 11).
const (
	lastFragment = 1 << 31
	callSize     = 40
	answerSize   = 24
	reply        = 1
)

// AnswerNull answers calls of NFS's NULL procedure until something else comes, and returns
// the first four bytes of that, which it has read, or why it can read or write no more.
func AnswerNull(conn io.ReadWriter) (first []byte, err error) {
	first, call := make([]byte, 4), make([]byte, callSize)
	for {
		if _, err := io.ReadFull(conn, first); err != nil {
			return nil, err
		}
		if binary.BigEndian.Uint32(first) != lastFragment|callSize {
			return first, nil
		}
		if _, err := io.ReadFull(conn, call); err != nil {
			return nil, err
		}
		answer := binary.BigEndian.AppendUint32(nil, lastFragment|answerSize)
		answer = append(answer, call[:4]...) // the transaction's number
		answer = binary.BigEndian.AppendUint32(answer, reply)
		if _, err := conn.Write(append(answer, make([]byte, answerSize-8)...)); err != nil {
			return nil, err
		}
	}
}

// Echo answers NULL and then says again what comes, until the client has said all.
func Echo(conn *net.TCPConn) { echo(conn) }

func echo(conn interface {
	io.ReadWriter
	CloseWrite() error
},
) {
	first, err := AnswerNull(conn)
	if err != nil {
		return
	}
	if _, err := conn.Write(first); err != nil {
		return
	}
	if _, err := io.Copy(conn, conn); err == nil {
		_ = conn.CloseWrite()
	}
}
