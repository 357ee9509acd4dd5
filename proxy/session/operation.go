package session

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// The limits of a session in which nothing is done but SEQUENCE (RFC 8881 section 18.36.3).
// Less than a page and two operations on the back channel, Linux's server refuses though the
// channel is not used (check_backchannel_attrs in fs/nfsd/nfs4state.c).
const (
	channelBytes      = 4096
	channelOperations = 2
	channelRequests   = 1
)

// errKnown is said by a server that mixes up our client and the owner's: what we confirm
// would evict nobody, and what we destroy would be another's.
var errKnown = errors.New("the server takes a new client for the one it has")

// client is a client of an owner as its server knows it, with one session.
type client struct {
	id      uint64
	session [16]byte
}

// enter makes the owner's client on this server a new one, ours, in place of any other.
// Each attempt is a client of its own: a server counts the CREATE_SESSION of a client, and
// servers do not agree whether one that was put off counts (RFC 8881 section 18.36.4).
func (s *server) enter(ctx context.Context, owner string) (client, error) {
	var entered client
	err := insist(ctx, func() error {
		id, sequence, err := s.exchangeID(ctx, owner)
		if err != nil {
			return err
		}
		session, err := s.createSession(ctx, id, sequence)
		entered = client{id: id, session: session}
		return err
	})
	return entered, err
}

// leave has the server forget a client of ours.
func (s *server) leave(ctx context.Context, left client) error {
	err := insist(ctx, func() error { return s.destroySession(ctx, left.session) })
	if err != nil {
		return err
	}
	return insist(ctx, func() error { return s.destroyClientID(ctx, left.id) })
}

// exchangeID announces a client of the owner that has just started (RFC 8881 section 18.35).
// Until its CREATE_SESSION the server keeps the one before. No flag is set: nfs-ganesha keeps
// apart clients of one owner that ask for pNFS in different ways, and Linux does not ask.
func (s *server) exchangeID(ctx context.Context, owner string) (id uint64, sequence uint32, err error) {
	started := nfsv4.ClientOwner4{CoOwnerid: []byte(owner)}
	rand.Read(started.CoVerifier[:])
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
		EiaClientowner:  started,
		EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
	}})
	if err != nil {
		return 0, 0, err
	}
	exchanged, ok := result.(*nfsv4.NfsResop4_OP_EXCHANGE_ID).OpexchangeId.(*nfsv4.ExchangeId4res_NFS4_OK)
	switch {
	case !ok:
		return 0, 0, errMalformed
	case exchanged.EirResok4.EirFlags&nfsv4.EXCHGID4_FLAG_CONFIRMED_R != 0:
		return 0, 0, errKnown
	}
	return exchanged.EirResok4.EirClientid, exchanged.EirResok4.EirSequenceid, nil
}

// createSession confirms a client (RFC 8881 section 18.36): the one that the owner had before
// is gone when it returns. Callbacks are not asked for; Linux's server wants to be told
// how they would be secured all the same (nfsd4_check_cb_sec).
func (s *server) createSession(ctx context.Context, id uint64, sequence uint32) (session [16]byte, err error) {
	channel := nfsv4.ChannelAttrs4{
		CaMaxrequestsize:        channelBytes,
		CaMaxresponsesize:       channelBytes,
		CaMaxresponsesizeCached: channelBytes,
		CaMaxoperations:         channelOperations,
		CaMaxrequests:           channelRequests,
	}
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{
		CsaClientid:      id,
		CsaSequence:      sequence,
		CsaForeChanAttrs: channel,
		CsaBackChanAttrs: channel,
		CsaSecParms:      []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_NONE{}},
	}})
	if err != nil {
		return session, err
	}
	created, ok := result.(*nfsv4.NfsResop4_OP_CREATE_SESSION).OpcreateSession.(*nfsv4.CreateSession4res_NFS4_OK)
	if !ok {
		return session, errMalformed
	}
	return created.CsrResok4.CsrSessionid, nil
}

// sequence uses a session's first slot for a request that does nothing more (RFC 8881
// section 18.46).
func (s *server) sequence(ctx context.Context, session [16]byte, number uint32) error {
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_SEQUENCE{Opsequence: nfsv4.Sequence4args{
		SaSessionid:  session,
		SaSequenceid: number,
	}})
	if err != nil {
		return err
	}
	used, ok := result.(*nfsv4.NfsResop4_OP_SEQUENCE).Opsequence.(*nfsv4.Sequence4res_NFS4_OK)
	if !ok || used.SrResok4.SrSessionid != session || used.SrResok4.SrSequenceid != number || used.SrResok4.SrSlotid != 0 {
		return errMalformed
	}
	return nil
}

// bind lets the connection be used for a session, for servers that want to be asked
// (RFC 8881 section 18.34).
func (s *server) bind(ctx context.Context, session [16]byte) error {
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{
		BctsaSessid: session,
		BctsaDir:    nfsv4.CDFC4_FORE,
	}})
	if err != nil {
		return err
	}
	bound, ok := result.(*nfsv4.NfsResop4_OP_BIND_CONN_TO_SESSION).OpbindConnToSession.(*nfsv4.BindConnToSession4res_NFS4_OK)
	if !ok || bound.BctsrResok4.BctsrSessid != session {
		return errMalformed
	}
	return nil
}

// destroySession ends a session (RFC 8881 section 18.37). One that is gone is none the worse.
func (s *server) destroySession(ctx context.Context, session [16]byte) error {
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_DESTROY_SESSION{
		OpdestroySession: nfsv4.DestroySession4args{DsaSessionid: session},
	})
	switch {
	case refused(err, nfsv4.NFS4ERR_BADSESSION, nfsv4.NFS4ERR_DEADSESSION):
		return nil
	case err != nil:
		return err
	case result.(*nfsv4.NfsResop4_OP_DESTROY_SESSION).OpdestroySession.DsrStatus != nfsv4.NFS4_OK:
		return errMalformed
	}
	return nil
}

// destroyClientID ends a client that has no session any more (RFC 8881 section 18.50). One
// that is gone is none the worse.
func (s *server) destroyClientID(ctx context.Context, id uint64) error {
	result, err := s.call(ctx, &nfsv4.NfsArgop4_OP_DESTROY_CLIENTID{
		OpdestroyClientid: nfsv4.DestroyClientid4args{DcaClientid: id},
	})
	switch {
	case refused(err, nfsv4.NFS4ERR_STALE_CLIENTID):
		return nil
	case err != nil:
		return err
	case result.(*nfsv4.NfsResop4_OP_DESTROY_CLIENTID).OpdestroyClientid.DcrStatus != nfsv4.NFS4_OK:
		return errMalformed
	}
	return nil
}
