package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Limits of checks, where they are not [doctor.DefaultLimit].
const (
	// toldLimit is for the EFS API and DNS together: the SDK's three attempts.
	toldLimit = 20 * time.Second
	// portLimit is beyond pingTimeout, which says what happened.
	portLimit = pingTimeout + time.Second
	// handshakeLimit leaves time to make the host's key.
	handshakeLimit = 20 * time.Second
	// accessLimit leaves a mount its time, and the first question on it some.
	accessLimit = answerTimeout + 2*time.Second
)

// Doctor examines this host and every file system in use, one check after the other, and
// reports each finding as soon as there is one. Each has a limit; what builds on a failed one
// is skipped. Nothing that runs is disturbed: mount targets are asked on connections of its
// own, no verdict on them follows, and the one file that it writes is in the catalogue. It
// returns when all is asked, the context ends or the Driver closes.
func (d *Driver) Doctor(ctx context.Context, report func(doctor.Finding)) {
	done := make(chan struct{})
	begun := d.spawn(func() {
		defer close(done)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(d.life, cancel)()
		d.examine(ctx, &doctor.Runner{Report: report, Go: d.stragglers.Go, Log: d.log.Errorf})
	})
	if begun {
		<-done
	}
}

func (d *Driver) examine(ctx context.Context, run *doctor.Runner) {
	_, settings := doctor.Ask(ctx, run, doctor.Check{Name: "settings"}, d.examineSettings)
	all := d.usedFileSystems(d.known.All())
	home := d.home()
	// Home first: the others' volumes are found by its catalogue.
	slices.SortStableFunc(all, func(a, b *fileSystem) int { return cmp.Compare(rank(a != home), rank(b != home)) })
	remote := slices.ContainsFunc(all, func(f *fileSystem) bool { return f.spec.Kind != filesystem.Directory })
	_, kernel := doctor.Ask(ctx, run, doctor.Check{Name: kernelCheck}, func(context.Context) (struct{}, doctor.Finding) {
		return struct{}{}, examineKernel(d.kernel, d.steers(), remote)
	})
	for _, f := range all {
		e := examination{f: f, d: d, run: run, settings: settings, kernel: kernel, main: f.main().protection, who: map[string]cloud.Identity{}}
		e.all(ctx)
	}
}

func rank(later bool) int {
	if later {
		return 1
	}
	return 0
}

// advised is an error in two parts: what is wrong, and what changes it.
type advised interface {
	error
	Advice() (wrong, do string)
}

func (d *Driver) examineSettings(context.Context) (struct{}, doctor.Finding) {
	none := struct{}{}
	if err := d.options.Misconfigured; err != nil {
		why, do := err.Error(), "change the settings"
		if parts, ok := errors.AsType[advised](err); ok {
			why, do = parts.Advice()
		}
		return none, doctor.Fail("wrong: nothing is mounted until they are changed", why, do)
	}
	words := []string{"file system " + d.options.FileSystem.String(), "root " + d.options.Root, "via " + d.options.Volume.Via}
	if p := d.home().settingsProtection().String(); p != "" {
		words = append(words, p)
	}
	return none, doctor.Fine("%s", strings.Join(words, ", "))
}

const (
	kernelCheck = "kernel NFS"
	// releaseFile is the kernel's version (uname -r).
	releaseFile = "/proc/sys/kernel/osrelease"
	nfsType     = "nfs4"
)

// ExamineKernel is the part of Doctor that needs no Driver: what to ask when there is none.
func ExamineKernel(ctx context.Context, run *doctor.Runner) {
	doctor.Ask(ctx, run, doctor.Check{Name: kernelCheck}, func(context.Context) (struct{}, doctor.Finding) {
		return struct{}{}, examineKernel(realKernel{}, "", true)
	})
}

// examineKernel asks for the NFS client. steers says whether direct mounts can be moved, "" if
// that is not known.
func examineKernel(k Kernel, steers string, needed bool) doctor.Finding {
	version := KernelVersion()
	err := k.Offers(nfsType)
	switch {
	case err == nil && steers == "":
		return doctor.Fine("Linux %s has the NFSv4 client", version)
	case err == nil:
		return doctor.Fine("Linux %s has the NFSv4 client; %s", version, steers)
	}
	const do = "on the host: modprobe nfsv4; if there is no such module, install the kernel package that has it (linux-modules-extra, kernel-modules-core), or another image"
	found := fmt.Sprintf("Linux %s has no NFSv4 client", version)
	if !needed {
		return doctor.Warn(found, err.Error()+"; local directories need none", do)
	}
	return doctor.Fail(found, err.Error(), do)
}

// KernelVersion is the kernel's release.
func KernelVersion() string {
	text, err := os.ReadFile(releaseFile)
	if err != nil {
		return "of unknown version"
	}
	return strings.TrimSpace(string(text))
}

// steers says whether the kernel's direct mounts can be moved to another zone.
func (d *Driver) steers() string {
	err := errors.New("sysfs cannot be mounted")
	if d.rpc != nil {
		_, err = d.rpc.Transports()
	}
	if err != nil {
		return "direct mounts cannot be moved to another zone (" + err.Error() + "), relays move theirs"
	}
	return "direct mounts can be moved to another zone"
}

// examination is that of one file system.
type examination struct {
	f   *fileSystem
	d   *Driver
	run *doctor.Runner
	// settings and kernel are findings of before, main is the catalogue's protection.
	settings, kernel doctor.Finding
	main             protection

	region  string // "" if nobody knows it
	zone    string // the home zone, likewise
	targets []proxy.Target
	who     map[string]cloud.Identity // by role, "" is the host's own
	ports   map[proxy.Target]doctor.Finding
	refused error // by a mount target, of whom it was shown
}

func (e *examination) check(name string, limit time.Duration, needs ...doctor.Finding) doctor.Check {
	return doctor.Check{Name: name, FileSystem: e.f.spec.String(), Limit: limit, Needs: needs}
}

func (e *examination) all(ctx context.Context) {
	needs := []doctor.Finding{e.settings}
	if e.f.spec.Kind != filesystem.Directory {
		needs = append(needs, e.kernel, e.examineServers(ctx))
	}
	e.examineData(ctx, needs)
	for _, t := range e.targets {
		e.examineLatency(ctx, t)
	}
	e.examineSessions(ctx)
}

// examineServers asks for what is on the way, and returns the finding on which the rest builds:
// whether a mount target can be used.
func (e *examination) examineServers(ctx context.Context) doctor.Finding {
	isEFS := e.f.spec.Kind == filesystem.EFS
	var place doctor.Finding
	if isEFS {
		var said cloud.Place
		said, place = doctor.Ask(ctx, e.run, e.check("region and zone", 0), e.examinePlace)
		e.region, e.zone = said.Region, said.Zone
	}
	told, found := doctor.Ask(ctx, e.run, e.check("mount targets", toldLimit), e.examineTargets)
	e.targets, e.zone = told.Targets, cmp.Or(e.zone, told.HomeZone)
	if isEFS && !e.f.static() {
		doctor.Ask(ctx, e.run, e.check("DNS", 0, place), e.examineNames)
	}
	usable := found
	e.ports = map[proxy.Target]doctor.Finding{}
	for i, t := range e.targets {
		check := e.check("port", portLimit)
		check.Target = t.String()
		_, port := doctor.Ask(ctx, e.run, check, func(ctx context.Context) (struct{}, doctor.Finding) { return e.examinePort(ctx, t) })
		e.ports[t] = port
		if i == 0 || !usable.Usable() {
			usable = port
		}
	}
	if e.main.TLS {
		for i, t := range e.targets {
			said, secured := e.examineTLS(ctx, t, e.main, place, e.ports[t])
			e.refused = cmp.Or(e.refused, said.refusal)
			e.ports[t] = secured
			if i == 0 || !usable.Usable() {
				usable = secured
			}
		}
	}
	if !isEFS {
		return usable
	}
	e.examineIdentities(ctx)
	for _, p := range e.protections() {
		for _, t := range e.targets {
			if p.TLS && p != e.main && e.ports[t].Usable() {
				_, _ = e.examineTLS(ctx, t, p, place, e.ports[t])
				break // one that answers tells who is let in
			}
		}
	}
	return usable
}

// protections are those of the transports in use, the catalogue's first.
func (e *examination) protections() []protection {
	all := []protection{e.main}
	e.f.mu.Lock()
	for _, t := range e.f.transports {
		if !slices.Contains(all, t.protection) {
			all = append(all, t.protection)
		}
	}
	e.f.mu.Unlock()
	slices.SortFunc(all[1:], func(a, b protection) int { return cmp.Compare(a.String(), b.String()) })
	return all[:min(len(all), maxProtections)]
}

// maxProtections bounds how many are looked at: each volume may have an access point of its own.
const maxProtections = 8

func (e *examination) examinePlace(ctx context.Context) (cloud.Place, doctor.Finding) {
	place := cloud.Place{Region: e.d.options.Region, RegionFrom: "AWS_REGION", Zone: e.d.options.Zone, ZoneFrom: "EFS_ZONE"}
	if e.d.options.Cloud != nil {
		place = e.d.options.Cloud.Place(ctx)
	}
	if region := efs.RegionOf(e.f.spec.Host); region != "" {
		place.Region, place.RegionFrom = region, "the file system's name"
	}
	note := "nobody has said it"
	if place.Metadata != nil {
		note = place.Metadata.Error()
	}
	if place.Region == "" {
		const do = "set AWS_REGION, or give the file system's DNS name in EFS_FILESYSTEM; on EC2, have the instance metadata service answer (IMDSv2, hop limit 1 is enough)"
		if e.f.static() && !e.main.TLS {
			return place, doctor.Warn("the region is not known, and neither TLS nor EFS_TARGETS left out will work", note, do)
		}
		return place, doctor.Fail("the region is not known", note, do)
	}
	found := fmt.Sprintf("region %s (%s), ", place.Region, place.RegionFrom)
	if place.Zone == "" {
		return place, doctor.Fine("%sno home zone is known (%s): set EFS_ZONE if there is a nearest one", found, note)
	}
	found += fmt.Sprintf("home zone %s (%s)", place.Zone, place.ZoneFrom)
	if place.ZoneID != "" {
		found += ", " + place.ZoneID
	}
	return place, doctor.Fine("%s", found)
}

// examineTargets asks anew where the mount targets are. What it hears is told and not used.
func (e *examination) examineTargets(ctx context.Context) (whereabouts, doctor.Finding) {
	found, err := e.f.lookUpTargets(ctx)
	if err != nil {
		return e.rememberedTargets(err)
	}
	zone := cmp.Or(e.zone, found.HomeZone)
	text := fmt.Sprintf("%d by %s: %s", len(found.Targets), sourceText(found.Source), targetsText(found.Targets))
	switch {
	case found.apiError != nil:
		why, do := cloud.Explanation(found.apiError)
		return found, doctor.Warn(text, why, cmp.Or(do, "none is needed as long as DNS tells; the API knows more"))
	case zone != "" && e.f.spec.Kind == filesystem.EFS && !slices.ContainsFunc(found.Targets, func(t proxy.Target) bool { return t.Zone == zone }):
		return found, doctor.Warn(text, "none is in the home zone "+zone+": each byte crosses zones, which costs time and money", "make a mount target in "+zone+", or correct EFS_ZONE")
	}
	return found, doctor.Fine("%s", text)
}

func sourceText(source string) string {
	if source == sourceSettings {
		return "EFS_TARGETS"
	}
	return source
}

// rememberedTargets are those of an earlier answer, when there is none now.
func (e *examination) rememberedTargets(err error) (whereabouts, doctor.Finding) {
	why, do := cloud.Explanation(err)
	do = cmp.Or(do, advice(err), "check DNS and the route to AWS's API, or set EFS_TARGETS=ZONE=ADDRESS,…")
	known, _ := e.d.targets.Get(e.f.spec.String())
	if group := e.f.knownTargets(); group != nil {
		state := group.State()
		known = whereabouts{HomeZone: state.Home}
		for _, t := range state.Targets {
			known.Targets = append(known.Targets, t.Target)
		}
	}
	if len(known.Targets) == 0 {
		return known, doctor.Fail("none is known", why, do)
	}
	return known, doctor.Warn("nobody tells now; in use are those of before: "+targetsText(known.Targets), why, do)
}

func (e *examination) examineNames(ctx context.Context) (struct{}, doctor.Finding) {
	none := struct{}{}
	name := efs.ServerName(e.f.spec.ID, e.region)
	var found []proxy.Target
	var err error
	if e.d.options.Cloud != nil {
		found, err = e.d.options.Cloud.Names(ctx, e.f.inCloud())
	} else {
		found, err = e.f.resolve(ctx)
	}
	if err != nil {
		const do = "use the VPC's resolver on this host, and switch on DNS support and DNS host names of the VPC; outside the VPC set EFS_TARGETS"
		if len(e.targets) > 0 {
			return none, doctor.Warn(name+" leads nowhere", err.Error()+"; as long as others tell where the mount targets are, nothing needs it", do)
		}
		return none, doctor.Fail(name+" leads nowhere", err.Error(), do)
	}
	text := name + " leads to " + targetsText(found)
	for _, one := range found {
		if len(e.targets) > 0 && !slices.ContainsFunc(e.targets, func(t proxy.Target) bool { return t.Addr == one.Addr }) {
			return none, doctor.Warn(text, one.Addr.Addr().String()+" is none of the file system's mount targets", "remove the name from the private zone or hosts file that has it")
		}
	}
	return none, doctor.Fine("%s", text)
}
