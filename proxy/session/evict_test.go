package session_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

// What a kernel has sent before, and the server gets after, is refused.
func TestEvictedClientIsRefused(t *testing.T) {
	server := sessiontest.New()
	evicted, other := server.Mount(kernel, 0), server.Mount("Linux NFSv4.1 web-2", 0)
	if err := session.Evict(t.Context(), server.Connect(t), kernel); err != nil {
		t.Fatal(err)
	}
	for _, late := range []struct {
		whose   string
		session [16]byte
		want    nfsv4.Nfsstat4
	}{
		{"the evicted client's", evicted, nfsv4.NFS4ERR_BADSESSION},
		{"the other client's", other, nfsv4.NFS4_OK},
	} {
		write := &nfsv4.NfsArgop4_OP_SEQUENCE{Opsequence: nfsv4.Sequence4args{SaSessionid: late.session, SaSequenceid: 42}}
		if status, _ := server.Do(nil, write); status != late.want {
			t.Errorf("%s request is answered by %s, want %s", late.whose, nfsv4.Nfsstat4_name[status], nfsv4.Nfsstat4_name[late.want])
		}
	}
	if clients, sessions := server.Has(kernel); clients != 0 || sessions != 0 {
		t.Errorf("the server has %d clients of the owner, %d sessions", clients, sessions)
	}
}

// first answers the first call of an operation, once.
func first(operation string, answer func() nfsv4.Nfsstat4) func(string) nfsv4.Nfsstat4 {
	return func(name string) nfsv4.Nfsstat4 {
		if name != operation || answer == nil {
			return nfsv4.NFS4_OK
		}
		once := answer
		answer = nil
		return once()
	}
}

// always answers all calls of an operation.
func always(operation string, status nfsv4.Nfsstat4) func(string) nfsv4.Nfsstat4 {
	return func(name string) nfsv4.Nfsstat4 {
		if name == operation {
			return status
		}
		return nfsv4.NFS4_OK
	}
}

func delay() nfsv4.Nfsstat4 { return nfsv4.NFS4ERR_DELAY }

func TestEvictFromAServerThat(t *testing.T) {
	const all = "EXCHANGE_ID CREATE_SESSION DESTROY_SESSION DESTROY_CLIENTID"
	const twice = "EXCHANGE_ID CREATE_SESSION EXCHANGE_ID CREATE_SESSION DESTROY_SESSION DESTROY_CLIENTID"
	for _, row := range []struct {
		name  string
		world func(w *sessiontest.Server)
		calls string
		took  time.Duration
	}{
		{"knows the owner", func(w *sessiontest.Server) { w.Mount(kernel, 0) }, all, 0},
		{"does not know the owner", func(*sessiontest.Server) {}, all, 0},
		{"has a client of the owner that never made a session", func(w *sessiontest.Server) {
			w.Clients[99] = &sessiontest.Client{Owner: kernel}
		}, all, 0},
		{"has both", func(w *sessiontest.Server) {
			w.Mount(kernel, 0)
			w.Clients[99] = &sessiontest.Client{Owner: kernel}
		}, all, 0},
		{"wants patience at first", func(w *sessiontest.Server) {
			w.Mount(kernel, 0)
			w.Before = first("EXCHANGE_ID", delay)
		}, "EXCHANGE_ID " + all, 100 * time.Millisecond},
		{"wants patience before it lets the old client go, and counts", func(w *sessiontest.Server) {
			w.Mount(kernel, 0)
			w.Before = first("CREATE_SESSION", delay)
		}, twice, 100 * time.Millisecond},
		{"wants patience for the session", func(w *sessiontest.Server) {
			w.Before = first("DESTROY_SESSION", delay)
		}, "EXCHANGE_ID CREATE_SESSION DESTROY_SESSION DESTROY_SESSION DESTROY_CLIENTID", 100 * time.Millisecond},
		{"wants patience for the client", func(w *sessiontest.Server) {
			w.Before = first("DESTROY_CLIENTID", delay)
		}, all + " DESTROY_CLIENTID", 100 * time.Millisecond},
		{"wants patience seven times", func(w *sessiontest.Server) {
			w.Mount(kernel, 0)
			times := 7
			w.Before = func(string) nfsv4.Nfsstat4 {
				if times--; times >= 0 {
					return nfsv4.NFS4ERR_DELAY
				}
				return nfsv4.NFS4_OK
			}
		}, strings.Repeat("EXCHANGE_ID ", 7) + all, (100 + 200 + 400 + 800 + 3*1000) * time.Millisecond},
		{"hears the owner in between", func(w *sessiontest.Server) {
			w.Mount(kernel, 0)
			w.Before = first("CREATE_SESSION", func() nfsv4.Nfsstat4 {
				for id, client := range w.Clients {
					if !client.Confirmed {
						w.Forget(id)
					}
				}
				w.Clients[99] = &sessiontest.Client{Owner: kernel, Verifier: [8]byte{1}}
				return nfsv4.NFS4_OK
			})
		}, twice, 100 * time.Millisecond},
		{"has ended our session itself", func(w *sessiontest.Server) {
			w.Before = first("DESTROY_SESSION", func() nfsv4.Nfsstat4 {
				clear(w.Sessions)
				return nfsv4.NFS4_OK
			})
		}, all, 0},
		{"calls our session dead", func(w *sessiontest.Server) {
			w.Before = first("DESTROY_SESSION", func() nfsv4.Nfsstat4 {
				clear(w.Sessions)
				return nfsv4.NFS4ERR_DEADSESSION
			})
		}, all, 0},
		{"has forgotten our client itself", func(w *sessiontest.Server) {
			w.Before = first("DESTROY_CLIENTID", func() nfsv4.Nfsstat4 {
				clear(w.Clients)
				return nfsv4.NFS4_OK
			})
		}, all, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := sessiontest.New()
				row.world(server)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				if err := session.Evict(ctx, server.Connect(t), kernel); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != row.took {
					t.Errorf("it took %v, want %v", took, row.took)
				}
				if clients, sessions := server.Has(kernel); clients != 0 || sessions != 0 {
					t.Errorf("the server has %d clients of the owner, %d sessions", clients, sessions)
				}
				if calls := strings.Join(server.Calls, " "); calls != row.calls {
					t.Errorf("the calls are\n%s, want\n%s", calls, row.calls)
				}
			})
		})
	}
}

func TestEvictFailsOnAServerThat(t *testing.T) {
	for _, row := range []struct {
		name    string
		world   func(w *sessiontest.Server)
		says    string
		evicted bool // and something of ours is left
	}{
		{"knows the owner as another user's", func(w *sessiontest.Server) {
			w.Clients[99] = &sessiontest.Client{Owner: kernel, UID: 1000, Confirmed: true}
		}, "EXCHANGE_ID: the owner's client is not root's by AUTH_SYS", false},
		{"has no NFSv4.1", func(w *sessiontest.Server) {
			w.Before = always("EXCHANGE_ID", nfsv4.NFS4ERR_MINOR_VERS_MISMATCH)
		}, "EXCHANGE_ID: NFS4ERR_MINOR_VERS_MISMATCH (10021)", false},
		{"has no room for a session", func(w *sessiontest.Server) {
			w.Before = always("CREATE_SESSION", nfsv4.NFS4ERR_NOSPC)
		}, "CREATE_SESSION: NFS4ERR_NOSPC (28)", false},
		{"answers by a number of its own", func(w *sessiontest.Server) {
			w.Before = always("CREATE_SESSION", 4711)
		}, "CREATE_SESSION: NFSv4 status 4711", false},
		{"wants patience for ever", func(w *sessiontest.Server) {
			w.Before = always("CREATE_SESSION", nfsv4.NFS4ERR_DELAY)
		}, "context deadline exceeded; the server's last answer was CREATE_SESSION: NFS4ERR_DELAY (10008)", false},
		{"keeps the session", func(w *sessiontest.Server) {
			w.Before = always("DESTROY_SESSION", nfsv4.NFS4ERR_SERVERFAULT)
		}, "DESTROY_SESSION: NFS4ERR_SERVERFAULT (10006)", true},
		{"keeps the client", func(w *sessiontest.Server) {
			w.Before = always("DESTROY_CLIENTID", nfsv4.NFS4ERR_NOTSUPP)
		}, "DESTROY_CLIENTID: NFS4ERR_NOTSUPP (10004)", true},
		{"wants patience for our client for ever", func(w *sessiontest.Server) {
			w.Before = always("DESTROY_CLIENTID", nfsv4.NFS4ERR_DELAY)
		}, "context deadline exceeded", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := sessiontest.New()
				old := server.Mount("Linux NFSv4.1 web-3", 0)
				row.world(server)
				kept := server.Mount(kernel, 0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := session.Evict(ctx, server.Connect(t), kernel)
				if err == nil || errors.Is(err, session.ErrLeftover) != row.evicted {
					t.Fatalf("Evict: %v", err)
				}
				for _, part := range []string{kernel, row.says} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not say %q", err, part)
					}
				}
				if (server.Sessions[kept] == nil) != row.evicted || server.Sessions[old] == nil {
					t.Errorf("the owner's session is %v, another's %v", server.Sessions[kept], server.Sessions[old])
				}
			})
		})
	}
}

// A server that takes us for the client that is there would evict nobody, and what is
// destroyed would be the kernel's.
func TestEvictDestroysNothingOfAServerThatTakesUsForTheKernel(t *testing.T) {
	known := &nfsv4.Compound4res{Resarray: []nfsv4.NfsResop4{&nfsv4.NfsResop4_OP_EXCHANGE_ID{
		OpexchangeId: &nfsv4.ExchangeId4res_NFS4_OK{EirResok4: nfsv4.ExchangeId4resok{
			EirClientid: 1, EirSequenceid: 1, EirFlags: nfsv4.EXCHGID4_FLAG_CONFIRMED_R,
			EirStateProtect: &nfsv4.StateProtect4R_SP4_NONE{},
		}},
	}}}
	calls := 0
	conn := sessiontest.Pipe(t, func(conn net.Conn) {
		for {
			message, err := sessiontest.ReadMessage(conn)
			if err != nil {
				return
			}
			calls++
			_, _ = conn.Write(sessiontest.Success(xidOf(message), known))
		}
	})
	err := session.Evict(t.Context(), conn, kernel)
	if err == nil || errors.Is(err, session.ErrLeftover) || !strings.Contains(err.Error(), "takes a new client for the one it has") {
		t.Errorf("Evict: %v", err)
	}
	_ = conn.Close()
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestEvictUsesAVerifierOfItsOwnEachTime(t *testing.T) {
	server := sessiontest.New()
	var verifiers [][8]byte
	server.Before = func(name string) nfsv4.Nfsstat4 {
		if name != "CREATE_SESSION" {
			return nfsv4.NFS4_OK
		}
		for _, client := range server.Clients {
			verifiers = append(verifiers, client.Verifier)
		}
		return nfsv4.NFS4_OK
	}
	for range 3 {
		if err := session.Evict(t.Context(), server.Connect(t), kernel); err != nil {
			t.Fatal(err)
		}
	}
	if len(verifiers) != 3 || slices.Contains(verifiers, [8]byte{}) || verifiers[0] == verifiers[1] || verifiers[1] == verifiers[2] {
		t.Errorf("verifiers %x", verifiers)
	}
}

func TestOwnersThatNoServerTakes(t *testing.T) {
	for _, owner := range []string{"", strings.Repeat("x", 1025)} {
		server := sessiontest.New()
		if err := session.Evict(t.Context(), server.Connect(t), owner); err == nil || !strings.Contains(err.Error(), "1 to 1024 bytes") {
			t.Errorf("Evict: %v", err)
		}
		if _, err := session.Shared(t.Context(), server.Connect(t), server.Connect(t), owner); err == nil {
			t.Errorf("Shared: %v", err)
		}
		if len(server.Calls) > 0 {
			t.Errorf("called %v", server.Calls)
		}
	}
	longest := strings.Repeat("x", 1024)
	if err := session.Evict(t.Context(), sessiontest.New().Connect(t), longest); err != nil {
		t.Error(err)
	}
}

func TestEvictEndsWithItsContext(t *testing.T) {
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for _, row := range []struct {
		name  string
		serve func(conn net.Conn)
	}{
		{"when the server says nothing", silent},
		{"when the server takes nothing", func(conn net.Conn) { time.Sleep(time.Hour) }},
		{"when the answer stops half-way", func(conn net.Conn) {
			message, _ := sessiontest.ReadMessage(conn)
			_, _ = conn.Write(sessiontest.Fragment(true, message)[:10])
			silent(conn)
		}},
		{"when the answer comes as empty fragments, slowly", func(conn net.Conn) {
			go silent(conn)
			for _, err := conn.Write(make([]byte, 4)); err == nil; _, err = conn.Write(make([]byte, 4)) {
				time.Sleep(time.Second)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := sessiontest.Pipe(t, row.serve)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				start := time.Now()
				err := session.Evict(ctx, conn, kernel)
				if took := time.Since(start); took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Evict: %v after %v", err, took)
				}
			})
		})
	}
}

// tireless is a connection that no deadline ends.
type tireless struct{ net.Conn }

func (tireless) SetDeadline(time.Time) error { return nil }

func TestEvictAfterItsContextEndedSendsNothing(t *testing.T) {
	server := sessiontest.New()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := session.Evict(ctx, tireless{server.Connect(t)}, kernel); !errors.Is(err, context.Canceled) {
		t.Errorf("Evict: %v", err)
	}
	if len(server.Calls) > 0 {
		t.Errorf("called %v", server.Calls)
	}
}

// A real connection and a real clock, once.
func TestEvictOverTCPIsInterrupted(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if err := session.Evict(ctx, conn, kernel); !errors.Is(err, context.Canceled) || time.Since(start) > 10*time.Second {
		t.Errorf("Evict: %v after %v", err, time.Since(start))
	}
}

// The caller's own limit on a connection is a limit as well.
func TestEvictKeepsTheConnectionsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := sessiontest.Pipe(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if err := session.Evict(t.Context(), conn, kernel); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, proxy.ErrNotNFS) {
			t.Errorf("Evict: %v", err)
		}
	})
}
