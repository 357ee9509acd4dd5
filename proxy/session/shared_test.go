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
)

func TestServersShareSessionsIf(t *testing.T) {
	one := func() (a, b *world) {
		w := newWorld()
		return w, w
	}
	two := func() (a, b *world) { return newWorld(), newWorld() }
	for _, row := range []struct {
		name   string
		worlds func() (a, b *world)
		shared bool
	}{
		{"they are one: yes", one, true},
		{"they are one that wants connections bound: yes", func() (a, b *world) {
			a, b = one()
			a.asksToBind = true
			return a, b
		}, true},
		{"they are one that wants patience: yes", func() (a, b *world) {
			a, b = one()
			a.before = first("SEQUENCE", delay)
			return a, b
		}, true},
		{"they know nothing of each other: no", two, false},
		{"the second has had our session and dropped it: no", func() (a, b *world) {
			a, b = two()
			b.before = always("SEQUENCE", nfsv4.NFS4ERR_DEADSESSION)
			return a, b
		}, false},
		{"the second wants a connection bound to what it does not know: no", func() (a, b *world) {
			a, b = two()
			b.before = first("SEQUENCE", func() nfsv4.Nfsstat4 { return nfsv4.NFS4ERR_CONN_NOT_BOUND_TO_SESSION })
			return a, b
		}, false},
		{"another client of the second has a new session of the same name: no", func() (a, b *world) {
			a, b = two()
			b.sessions[[16]byte{3, 0xbb}] = &slot{client: 5}
			return a, b
		}, false},
		{"another client of the second has used a session of the same name: no", func() (a, b *world) {
			a, b = two()
			b.sessions[[16]byte{3, 0xbb}] = &slot{client: 5, last: 80}
			return a, b
		}, false},
		{"the second takes our request for another client's again: no", func() (a, b *world) {
			a, b = two()
			b.before = always("SEQUENCE", nfsv4.NFS4ERR_SEQ_FALSE_RETRY)
			return a, b
		}, false},
		{"the second has not kept the answer to another client's request: no", func() (a, b *world) {
			a, b = two()
			b.before = always("SEQUENCE", nfsv4.NFS4ERR_RETRY_UNCACHED_REP)
			return a, b
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := row.worlds()
				a.mount(kernel, 0)
				before, beforeB := maps.Clone(a.sessions), maps.Clone(b.sessions)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				shared, err := session.Shared(ctx, a.connect(t), b.connect(t), canary)
				if err != nil || shared != row.shared {
					t.Fatalf("Shared = %v, %v", shared, err)
				}
				if clients, _ := a.has(canary); clients != 0 || !maps.Equal(a.sessions, before) || !maps.Equal(b.sessions, beforeB) {
					t.Errorf("%d clients are left, and %v, %v", clients, a.sessions, b.sessions)
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
				a, b := newWorld(), newWorld()
				a.before, b.before = row.a, row.b
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				shared, err := session.Shared(ctx, a.connect(t), b.connect(t), canary)
				if shared || err == nil || errors.Is(err, session.ErrLeftover) || !strings.Contains(err.Error(), row.says) {
					t.Errorf("Shared = %v, %v, want an error that says %q", shared, err, row.says)
				}
				if _, sessions := a.has(canary); sessions != 0 && !row.silent {
					t.Error("the first server keeps the session")
				}
			})
		})
	}
}

func TestSharedCleansUpWhereTheSecondServerIsNone(t *testing.T) {
	a := newWorld()
	b := pipe(t, func(conn net.Conn) {
		_, _ = readMessage(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	shared, err := session.Shared(t.Context(), a.connect(t), b, canary)
	if shared || !errors.Is(err, proxy.ErrNotNFS) {
		t.Errorf("Shared = %v, %v", shared, err)
	}
	if clients, _ := a.has(canary); clients != 0 {
		t.Error("the first server keeps the client")
	}
}

// The answer is known when only cleaning up fails.
func TestSharedAnswersWithItsLeftover(t *testing.T) {
	one := newWorld()
	one.before = always("DESTROY_CLIENTID", nfsv4.NFS4ERR_NOTSUPP)
	shared, err := session.Shared(t.Context(), one.connect(t), one.connect(t), canary)
	if !shared || !errors.Is(err, session.ErrLeftover) {
		t.Errorf("Shared = %v, %v", shared, err)
	}
	// The next call replaces what the last one left.
	one.before = nil
	shared, err = session.Shared(t.Context(), one.connect(t), one.connect(t), canary)
	if clients, _ := one.has(canary); !shared || err != nil || clients != 0 {
		t.Errorf("Shared = %v, %v, and %d clients", shared, err, clients)
	}
}

func TestSharedEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipe(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		shared, err := session.Shared(ctx, newWorld().connect(t), b, canary)
		if took := time.Since(start); shared || took != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shared = %v, %v after %v", shared, err, took)
		}
	})
}
