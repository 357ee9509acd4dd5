package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

const (
	// skewWarns is from when on a clock is remarkable, skewFails from when on AWS refuses what
	// was signed by it (Signature Version 4 allows five minutes).
	skewWarns, skewFails = time.Minute, 5 * time.Minute
	// slowWrite is beyond what a file system takes that has throughput left.
	slowWrite = time.Second
	// samples is how often a round trip is measured.
	samples = 5
)

// examineData asks for what is on the file system.
func (e *examination) examineData(ctx context.Context, needs []doctor.Finding) {
	access := e.check("access", accessLimit, append(needs, e.settled())...)
	question := e.examineAccess
	if e.refused != nil {
		access.Needs = []doctor.Finding{e.settings}
		question = func(context.Context) (struct{}, doctor.Finding) { return struct{}{}, e.explainDenied(e.refused) }
	}
	_, mounted := doctor.Ask(ctx, e.run, access, question)
	_, catalogue := doctor.Ask(ctx, e.run, e.check("catalogue", accessLimit, mounted), e.examineCatalogue)
	if e.f.spec.Kind != filesystem.Directory {
		doctor.Ask(ctx, e.run, e.check("clock", toldLimit+accessLimit), func(ctx context.Context) (struct{}, doctor.Finding) {
			return struct{}{}, e.examineClock(ctx, catalogue.Usable())
		})
	}
	doctor.Ask(ctx, e.run, e.check("write test", accessLimit, catalogue), e.examineWriting)
}

// settled fails if a mount would now have a verdict on a mount target follow: the file system
// is not mounted, and the mount target that it would be mounted from does not answer. That is
// for those who mount.
func (e *examination) settled() doctor.Finding {
	group := e.f.knownTargets()
	if group == nil || e.f.main().established() != nil {
		return doctor.Fine("")
	}
	current := group.Current()
	if port, asked := e.ports[current]; !asked || port.Usable() {
		return doctor.Fine("")
	}
	return doctor.Finding{Check: "port", Target: current.String(), Outcome: doctor.Failed}
}

func (e *examination) examineAccess(ctx context.Context) (struct{}, doctor.Finding) {
	_, err := inSession(ctx, e.f.main(), func(_ context.Context, s *session) (tree.Stamp, error) { return s.base.Refresh() }, nil)
	switch {
	case err == nil:
		text := "mounted"
		if s := e.f.main().established(); s != nil && s.path != "" {
			text += ", path " + s.path
		}
		if e.main != (protection{}) {
			text += ", " + e.main.String()
		}
		return struct{}{}, doctor.Fine("%s", text)
	case errors.Is(err, fs.ErrPermission):
		return struct{}{}, e.explainDenied(err)
	case errors.Is(err, errSilent):
		return struct{}{}, doctor.Fail("no answer", err.Error(), "mount targets answer and the mount does not: look at the kernel's messages (dmesg | grep -i nfs) and at docker-volume-efs status; what waits goes on by itself")
	}
	return struct{}{}, doctor.Fail("cannot be mounted", err.Error(), cmp.Or(advice(err), "the cause says it; the kernel's messages may say more (dmesg | grep -i nfs)"))
}

// explainDenied says who is refused, and what would let them in.
func (e *examination) explainDenied(err error) doctor.Finding {
	do := e.denied(clientMount, clientWrite, clientRoot)
	if e.main.AccessPoint != "" {
		do += "; and see that " + e.main.AccessPoint + " is an access point of " + e.f.spec.ID
	}
	return doctor.Fail(e.deniedTo(), err.Error(), do)
}

// deniedTo says who is refused.
func (e *examination) deniedTo() string {
	if e.f.spec.Kind != filesystem.EFS {
		return "access denied to this host"
	}
	text := "access denied to an anonymous client"
	if e.main.IAM {
		text = "access denied to " + cmp.Or(e.who[e.main.Role].ARN, e.main.Role, "this host's identity")
	}
	if e.main.AccessPoint != "" {
		text += " by access point " + e.main.AccessPoint
	}
	return text
}

func (e *examination) examineCatalogue(ctx context.Context) (struct{}, doctor.Finding) {
	count, err := withCatalog(ctx, e.f, func(_ context.Context, c *catalog.Catalog, _ *session) (int, error) {
		if err := c.CheckFormat(); err != nil {
			return 0, err
		}
		names, err := c.Names()
		return len(names), err
	})
	switch {
	case err == nil:
		return struct{}{}, doctor.Fine("%s is readable, format %d, %d volumes", catalog.DirName, catalog.Version, count)
	case errors.Is(err, catalog.ErrNewer):
		return struct{}{}, doctor.Fail("a newer version made it", err.Error(), "upgrade the plugin on this host")
	}
	return struct{}{}, e.explainData("cannot be used", err)
}

// explainData says why a file of the catalogue cannot be read or written.
func (e *examination) explainData(found string, err error) doctor.Finding {
	switch {
	case errors.Is(err, syscall.EROFS):
		return doctor.Fail("it is read-only to "+e.whoWrites(), err.Error(), e.denied(clientWrite))
	case errors.Is(err, fs.ErrPermission):
		return doctor.Fail(e.whoWrites()+" may not write there as root", err.Error(), e.denied(clientWrite, clientRoot)+
			e.ofAccessPoint("; an access point whose user is not root needs that user to own its directory"))
	}
	return doctor.Fail(found, err.Error(), cmp.Or(advice(err), "the cause says it"))
}

func (e *examination) whoWrites() string {
	if e.main.IAM {
		return cmp.Or(e.who[e.main.Role].ARN, e.main.Role, "this host's identity")
	}
	return "this host"
}

func (e *examination) ofAccessPoint(text string) string {
	if e.main.AccessPoint == "" {
		return ""
	}
	return text
}

// try writes and removes one file, in the catalogue.
func (e *examination) try(ctx context.Context) (catalog.Trial, error) {
	return withCatalog(ctx, e.f, func(_ context.Context, c *catalog.Catalog, _ *session) (catalog.Trial, error) { return c.Try() })
}

func (e *examination) examineWriting(ctx context.Context) (struct{}, doctor.Finding) {
	trial, err := e.try(ctx)
	if err != nil {
		return struct{}{}, e.explainData("no file can be written", err)
	}
	text := fmt.Sprintf("a file is written and synced within %v, removed within %v", shortly(trial.Write), shortly(trial.Remove))
	if trial.Write >= slowWrite {
		return struct{}{}, doctor.Warn(text, "that is slow: the file system's throughput or its burst credits are used up, or the way is long",
			"look at BurstCreditBalance and PercentIOLimit in CloudWatch; use elastic throughput, or a mount target in this zone")
	}
	return struct{}{}, doctor.Fine("%s", text)
}

// examineClock compares the clocks: with AWS's, which judges signatures, else with the one by
// which the file system records writes.
func (e *examination) examineClock(ctx context.Context, writable bool) doctor.Finding {
	why := "AWS is not asked"
	if e.f.spec.Kind == filesystem.EFS && e.d.options.Cloud != nil && e.region != "" {
		asked, cancel := context.WithTimeout(ctx, doctor.DefaultLimit)
		defer cancel()
		ahead, err := e.d.options.Cloud.Clock(asked, e.region)
		if err == nil {
			return skew(ahead, "AWS's")
		}
		why, _ = cloud.Explanation(err)
	}
	if !writable {
		return doctor.Warn("compared with no other", why+", and no file can be written to see the file system's", "look at it yourself: chronyc tracking, timedatectl")
	}
	trial, err := e.try(ctx)
	if err != nil {
		return doctor.Warn("compared with no other", why+"; "+err.Error(), "look at it yourself: chronyc tracking, timedatectl")
	}
	return skew(trial.Ahead, "the file system's")
}

// skew judges by how much this host's clock is ahead.
func skew(ahead time.Duration, whose string) doctor.Finding {
	off, word := ahead, "ahead of"
	if off < 0 {
		off, word = -off, "behind"
	}
	text := fmt.Sprintf("%v %s %s", off.Round(100*time.Millisecond), word, whose)
	const do = "set this host's clock: run chrony or systemd-timesyncd, on EC2 with 169.254.169.123"
	switch {
	case off > skewFails:
		return doctor.Fail(text, "AWS refuses what was signed more than 5 minutes off, and certificates may seem not to be valid", do)
	case off > skewWarns:
		return doctor.Warn(text, "beyond 5 minutes AWS refuses what this host signs", do)
	case off < time.Second:
		text = "within a second of " + whose
	}
	return doctor.Fine("%s", text)
}

// examineLatency measures round trips to one mount target, on a connection of its own.
func (e *examination) examineLatency(ctx context.Context, t proxy.Target) {
	check := e.check("latency", portLimit, e.ports[t])
	check.Target = t.String()
	doctor.Ask(ctx, e.run, check, func(ctx context.Context) (struct{}, doctor.Finding) {
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		conn, err := e.dial(ctx, t, e.main)
		if err != nil {
			return struct{}{}, explainWay(t, err)
		}
		defer conn.Close()
		trips := make([]time.Duration, samples)
		for i := range trips {
			if trips[i], err = proxy.Null(ctx, conn); err != nil {
				return struct{}{}, explainWay(t, err)
			}
		}
		slices.Sort(trips)
		text := fmt.Sprintf("%v (%v to %v, %d round trips)", shortly(trips[samples/2]), shortly(trips[0]), shortly(trips[samples-1]), samples)
		if t.Zone != "" && t.Zone == e.zone {
			text += ", home zone"
		}
		if group := e.f.knownTargets(); group != nil && group.Current().Addr == t.Addr {
			text += ", in use"
		}
		return struct{}{}, doctor.Fine("%s", text)
	})
}
