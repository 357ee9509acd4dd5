package session_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

func TestServersShareSessionsIf(t *testing.T) {
	one := func() (a, b *sessiontest.Server) {
		w := sessiontest.New()
		return w, w
	}
	two := func() (a, b *sessiontest.Server) { return sessiontest.New(), sessiontest.New() }
	for _, row := range []struct {
		name   string
		worlds func() (a, b *sessiontest.Server)
		shared bool
	}{
		{"they are one: yes", one, true},
		{"they are one that wants connections bound: yes", func() (a, b *sessiontest.Server) {
			a, b = one()
			a.AsksToBind = true
			return a, b
		}, true},
		{"they are one that wants patience: yes", func() (a, b *sessiontest.Server) {
			a, b = one()
			a.Before = first("SEQUENCE", delay)
			return a, b
		}, true},
		{"they know nothing of each other: no", two, false},
		{"the second has had our session and dropped it: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Before = always("SEQUENCE", nfsv4.NFS4ERR_DEADSESSION)
			return a, b
		}, false},
		{"the second wants a connection bound to what it does not know: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Before = first("SEQUENCE", func() nfsv4.Nfsstat4 { return nfsv4.NFS4ERR_CONN_NOT_BOUND_TO_SESSION })
			return a, b
		}, false},
		{"another client of the second has a new session of the same name: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Sessions[[16]byte{3, 0xbb}] = &sessiontest.Session{Client: 5}
			return a, b
		}, false},
		{"another client of the second has used a session of the same name: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Sessions[[16]byte{3, 0xbb}] = &sessiontest.Session{Client: 5, Last: 80}
			return a, b
		}, false},
		{"the second takes our request for another client's again: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Before = always("SEQUENCE", nfsv4.NFS4ERR_SEQ_FALSE_RETRY)
			return a, b
		}, false},
		{"the second has not kept the answer to another client's request: no", func() (a, b *sessiontest.Server) {
			a, b = two()
			b.Before = always("SEQUENCE", nfsv4.NFS4ERR_RETRY_UNCACHED_REP)
			return a, b
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := row.worlds()
				a.Mount(kernel, 0)
				before, beforeB := maps.Clone(a.Sessions), maps.Clone(b.Sessions)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				shared, err := session.Shared(ctx, a.Connect(t), b.Connect(t), canary)
				if err != nil || shared != row.shared {
					t.Fatalf("Shared = %v, %v", shared, err)
				}
				if clients, _ := a.Has(canary); clients != 0 || !maps.Equal(a.Sessions, before) || !maps.Equal(b.Sessions, beforeB) {
					t.Errorf("%d clients are left, and %v, %v", clients, a.Sessions, b.Sessions)
				}
			})
		})
	}
}

func TestSharedCannotTellIf(t *testing.T) {
	for _, row := range []struct {
		name   string
		a, b   func(string) nfsv4.Nfsstat4
		says   string
		silent bool
	}{
		{"the first refuses", always("CREATE_SESSION", nfsv4.NFS4ERR_NOSPC), nil, "make a session on the first server: CREATE_SESSION: NFS4ERR_NOSPC", false},
		{"the second refuses", nil, always("SEQUENCE", nfsv4.NFS4ERR_SERVERFAULT), "on the second: SEQUENCE: NFS4ERR_SERVERFAULT", false},
		{"the second wants patience for ever", nil, always("SEQUENCE", nfsv4.NFS4ERR_DELAY), "NFS4ERR_DELAY", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := sessiontest.New(), sessiontest.New()
				a.Before, b.Before = row.a, row.b
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				shared, err := session.Shared(ctx, a.Connect(t), b.Connect(t), canary)
				if shared || err == nil || errors.Is(err, session.ErrLeftover) || !strings.Contains(err.Error(), row.says) {
					t.Errorf("Shared = %v, %v, want an error that says %q", shared, err, row.says)
				}
				if _, sessions := a.Has(canary); sessions != 0 && !row.silent {
					t.Error("the first server keeps the session")
				}
			})
		})
	}
}

func TestSharedCleansUpWhereTheSecondServerIsNone(t *testing.T) {
	a := sessiontest.New()
	b := sessiontest.Pipe(t, func(conn net.Conn) {
		_, _ = sessiontest.ReadMessage(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	shared, err := session.Shared(t.Context(), a.Connect(t), b, canary)
	if shared || !errors.Is(err, proxy.ErrNotNFS) {
		t.Errorf("Shared = %v, %v", shared, err)
	}
	if clients, _ := a.Has(canary); clients != 0 {
		t.Error("the first server keeps the client")
	}
}

// The answer is known when only cleaning up fails.
func TestSharedAnswersWithItsLeftover(t *testing.T) {
	one := sessiontest.New()
	one.Before = always("DESTROY_CLIENTID", nfsv4.NFS4ERR_NOTSUPP)
	shared, err := session.Shared(t.Context(), one.Connect(t), one.Connect(t), canary)
	if !shared || !errors.Is(err, session.ErrLeftover) {
		t.Errorf("Shared = %v, %v", shared, err)
	}
	// The next call replaces what the last one left.
	one.Before = nil
	shared, err = session.Shared(t.Context(), one.Connect(t), one.Connect(t), canary)
	if clients, _ := one.Has(canary); !shared || err != nil || clients != 0 {
		t.Errorf("Shared = %v, %v, and %d clients", shared, err, clients)
	}
}

func TestSharedEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sessiontest.Pipe(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		shared, err := session.Shared(ctx, sessiontest.New().Connect(t), b, canary)
		if took := time.Since(start); shared || took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shared = %v, %v after %v", shared, err, took)
		}
	})
}
