package oncrpc_test

import (
	"bytes"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

func TestDismissals(t *testing.T) {
	refused := func(status nfsv4.Nfsstat4, result nfsv4.NfsResop4) *nfsv4.Compound4res {
		return &nfsv4.Compound4res{Status: status, Resarray: []nfsv4.NfsResop4{result}}
	}
	const gone, stale, inUse = nfsv4.NFS4ERR_BADSESSION, nfsv4.NFS4ERR_STALE_CLIENTID, nfsv4.NFS4ERR_CLID_INUSE
	for _, c := range []struct {
		name      string
		operation uint32
		want      *nfsv4.Compound4res
	}{
		{"a call within a session", oncrpctest.Sequence, refused(gone, &nfsv4.NfsResop4_OP_SEQUENCE{Opsequence: &nfsv4.Sequence4res_default{SrStatus: gone}})},
		{"one that binds a connection", oncrpctest.BindConn, refused(gone, &nfsv4.NfsResop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: &nfsv4.BindConnToSession4res_default{BctsrStatus: gone}})},
		{"one that ends a session", oncrpctest.DestroySession, refused(gone, &nfsv4.NfsResop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4res{DsrStatus: gone}})},
		{"one that asks for a session", oncrpctest.CreateSession, refused(stale, &nfsv4.NfsResop4_OP_CREATE_SESSION{OpcreateSession: &nfsv4.CreateSession4res_default{CsrStatus: stale}})},
		{"one that ends the client", oncrpctest.DestroyClientID, refused(stale, &nfsv4.NfsResop4_OP_DESTROY_CLIENTID{OpdestroyClientid: nfsv4.DestroyClientid4res{DcrStatus: stale}})},
		{"one that introduces the client", oncrpctest.ExchangeID, refused(inUse, &nfsv4.NfsResop4_OP_EXCHANGE_ID{OpexchangeId: &nfsv4.ExchangeId4res_default{EirStatus: inUse}})},
	} {
		for _, tag := range []string{"", "mount"} {
			t.Run(c.name+" tagged "+tag, func(t *testing.T) {
				c.want.Tag = tag
				dismisses(t, but(c.operation, func(call *oncrpctest.Call) { call.Tag = []byte(tag) }), sessiontest.Success(7, c.want))
			})
		}
	}
	t.Run("NULL", func(t *testing.T) {
		dismisses(t, but(0, func(c *oncrpctest.Call) { c.Procedure = 0 }), sessiontest.Success(7, new(bytes.Buffer)))
	})
	t.Run("a reply to what the server called", func(t *testing.T) {
		dismisses(t, but(0, func(c *oncrpctest.Call) { c.Type, c.RPC = 1, 0 }), nil)
	})
}

func dismisses(t *testing.T, message, want []byte) {
	t.Helper()
	for _, size := range []int{1 << 20, 11} {
		head, err := oncrpc.ReadHead(oncrpctest.Fragments(message, size))
		if err != nil {
			t.Fatal(err)
		}
		if got := head.Dismissal(); !bytes.Equal(got, want) {
			t.Errorf("in fragments of %d bytes it is answered\n%x, want\n%x", size, got, want)
		}
	}
}
