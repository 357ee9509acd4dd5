package driver

import (
	"context"
	"errors"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	sessions "github.com/docker-volume-efs/docker-volume-efs/proxy/session"
)

// sessionsLimit leaves each of two mount targets the time of a ping.
const sessionsLimit = 2*pingTimeout + time.Second

// examineSessions asks of each further mount target whether it shares the state of NFS sessions with the
// first that can be used: what a move between the two costs depends on it, and of EFS's nobody says. The
// client that is made for it is doctor's own.
func (e *examination) examineSessions(ctx context.Context) {
	var first *proxy.Target
	for _, t := range e.targets {
		if first == nil {
			if e.ports[t].Usable() {
				first = &t
			}
			continue
		}
		check := e.check("sessions", sessionsLimit, e.ports[t])
		check.Target = t.String()
		doctor.Ask(ctx, e.run, check, func(ctx context.Context) (struct{}, doctor.Finding) {
			return struct{}{}, e.compareSessions(ctx, *first, t)
		})
	}
}

func (e *examination) compareSessions(ctx context.Context, first, second proxy.Target) doctor.Finding {
	ctx, cancel := context.WithTimeout(ctx, 2*pingTimeout)
	defer cancel()
	a, err := e.dial(ctx, first, e.main)
	if err != nil {
		return explainWay(first, err)
	}
	defer a.Close()
	b, err := e.dial(ctx, second, e.main)
	if err != nil {
		return explainWay(second, err)
	}
	defer b.Close()
	shared, err := sessions.Shared(ctx, a, b, e.d.host.identity("doctor "+second.String()))
	return explainSessions(first, shared, err)
}

// explainSessions says what the answer of [sessions.Shared] about a mount target and the first means.
func explainSessions(first proxy.Target, shared bool, err error) doctor.Finding {
	switch {
	case err != nil && !errors.Is(err, sessions.ErrLeftover):
		return doctor.Warn("not known whether it shares them with "+first.String(), err.Error(), "volumes do not need the answer; ask again when the mount targets are well")
	case !shared:
		return doctor.Warn("it has its own, apart from those of "+first.String(),
			"when volumes move between the two their files stay open, and locks that containers hold on files (flock, fcntl) can be lost: such a file then gives an error until it is opened again",
			"nothing, if containers hold no such locks; else leave EFS_RETURN=sticky, and stop those containers before docker-volume-efs drain")
	}
	return doctor.Fine("shared with %s: a move between the two keeps open files and locks", first)
}
