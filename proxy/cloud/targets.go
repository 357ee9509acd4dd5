package cloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/efs"
	"github.com/aws/aws-sdk-go-v2/service/efs/types"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	identity "github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Sources of mount targets, as [Cloud.Targets] names them.
const (
	SourceAPI = "EFS API"
	SourceDNS = "DNS"
)

const (
	nfsPort = 2049
	// apiPatience is how long DNS's answer waits for a better one: the API knows
	// the zone of every mount target.
	apiPatience = 3 * time.Second
)

// found is what one source says.
type found struct {
	targets []proxy.Target
	partial bool
	err     error
}

// Told is an answer about mount targets.
type Told struct {
	// Targets are those that serve, the home zone's first.
	Targets []proxy.Target
	// Partial tells that some look-ups failed: there may be more than these.
	Partial bool
	// Source is who told, HomeZone this host's zone, if it is known.
	Source, HomeZone string
	// APIError is why it was not the EFS API.
	APIError error
}

// Targets returns a file system's mount targets: from the EFS API, or, where that does not
// answer or may not be asked, from DNS. Both are asked at once.
func (c *Cloud) Targets(ctx context.Context, f FileSystem) (Told, error) {
	ctx, cancel := context.WithCancel(ctx)
	api, dns := make(chan found, 1), make(chan found, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel() // before that wait
	asking.Go(func() { t, err := c.describe(ctx, f); api <- found{targets: t, err: err} })
	asking.Go(func() { dns <- c.lookUp(ctx, f) })
	home := c.HomeZone(ctx)

	patience := time.NewTimer(apiPatience)
	defer patience.Stop()
	told := found{err: errSlow}
	select {
	case told = <-api:
	case <-patience.C:
	}
	if told.err == nil {
		return Told{Targets: told.targets, Source: SourceAPI, HomeZone: home}, nil
	}
	named := <-dns
	if named.err == nil {
		return Told{Targets: named.targets, Partial: named.partial, Source: SourceDNS, HomeZone: home, APIError: told.err}, nil
	}
	if errors.Is(told.err, errSlow) {
		told = <-api // slow as it is, it is all there is
	}
	if told.err == nil {
		return Told{Targets: told.targets, Source: SourceAPI, HomeZone: home}, nil
	}
	return Told{}, fmt.Errorf("no mount target of %s is known: %w; %w", f.ID, told.err, named.err)
}

// errSlow is why DNS's answer was taken.
var errSlow = fmt.Errorf("the EFS API has not answered within %v", apiPatience)

// describe asks the EFS API.
func (c *Cloud) describe(ctx context.Context, fileSystem FileSystem) ([]proxy.Target, error) {
	client, err := c.efs(ctx, fileSystem, "")
	if err != nil {
		return nil, err
	}
	var all []types.MountTargetDescription
	pages := efs.NewDescribeMountTargetsPaginator(client, &efs.DescribeMountTargetsInput{FileSystemId: &fileSystem.ID})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain("elasticfilesystem:DescribeMountTargets of "+fileSystem.ID, "", err)
		}
		all = append(all, page.MountTargets...)
	}
	name, id := c.home(ctx)
	targets := usable(all, name, id, c.routed())
	if len(targets) == 0 {
		return nil, fmt.Errorf("%s has no mount target that is available: make one in a zone of this host's network, and wait until it is", fileSystem.ID)
	}
	return targets, nil
}

// usable are the mount targets that serve, with the names of their zones as this host has
// them. In another account the same name may mean another zone, and only the id tells; a zone
// whose name is not to be relied on goes by its id.
func usable(all []types.MountTargetDescription, homeName, homeID string, routed func(netip.Addr) bool) []proxy.Target {
	var targets []proxy.Target
	for _, one := range all {
		addr, known := address(one, routed)
		serves := one.LifeCycleState == types.LifeCycleStateAvailable || one.LifeCycleState == types.LifeCycleStateUpdating
		if !serves || !known {
			continue
		}
		zone, id := aws.ToString(one.AvailabilityZoneName), aws.ToString(one.AvailabilityZoneId)
		switch {
		case homeID != "" && id == homeID:
			zone = homeName
		case homeID != "" && zone == homeName, zone == "":
			zone = id
		}
		targets = append(targets, proxy.Target{Zone: zone, Addr: netip.AddrPortFrom(addr, nfsPort)})
	}
	slices.SortFunc(targets, func(a, b proxy.Target) int { return cmp.Compare(a.Zone, b.Zone) })
	return proxy.HomeFirst(targets, homeName)
}

// address is the one by IPv4, unless this host has a route to the one by IPv6 alone.
func address(one types.MountTargetDescription, routed func(netip.Addr) bool) (addr netip.Addr, known bool) {
	four, err := netip.ParseAddr(aws.ToString(one.IpAddress))
	six, sixErr := netip.ParseAddr(aws.ToString(one.Ipv6Address))
	if err != nil || sixErr == nil && !routed(four) && routed(six) {
		return six, sixErr == nil
	}
	return four, true
}

// routed tells whether this host has a route to an address. Nothing is sent: connecting a datagram socket
// only asks for it.
func (c *Cloud) routed() func(netip.Addr) bool {
	if c.options.Routed != nil {
		return c.options.Routed
	}
	return func(addr netip.Addr) bool {
		conn, err := net.Dial("udp", netip.AddrPortFrom(addr, nfsPort).String())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
}

// zoneLetters are the last letters of the zones that a region may have.
const zoneLetters = "abcdef"

// lookUp asks DNS. A zone's name in front of the file system's leads to that zone's mount
// target; the file system's own name leads to the one in this host's zone, or nowhere if
// that zone has none
// (docs.aws.amazon.com/efs/latest/ug/mounting-fs-mount-cmd-dns-name.html). In an account that
// is not the file system's, people keep names with the zones' ids in front.
func (c *Cloud) lookUp(ctx context.Context, fileSystem FileSystem) found {
	region, err := c.region(ctx, fileSystem)
	if err != nil {
		return found{err: err}
	}
	home, id := c.home(ctx)
	server := identity.ServerName(fileSystem.ID, region)
	zones := []string{""}
	for _, letter := range zoneLetters {
		zones = append(zones, region+string(letter))
	}
	for _, zone := range []string{home, id} {
		if zone != "" && !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	answers := make([]found, len(zones))
	var asking sync.WaitGroup
	for i, zone := range zones {
		asking.Go(func() { answers[i].targets, answers[i].err = c.resolve(ctx, zone, server) })
	}
	asking.Wait()
	targets := merge(answers[1:], answers[0], home)
	if len(targets) == 0 {
		return found{err: fmt.Errorf("look up %s: %w", server, answers[0].err)}
	}
	// A name that is not there is an answer; one that could not be looked up is none.
	partial := slices.ContainsFunc(answers, func(one found) bool {
		var dns *net.DNSError
		return one.err != nil && !(errors.As(one.err, &dns) && dns.IsNotFound)
	})
	return found{targets: proxy.HomeFirst(targets, home), partial: partial}
}

// merge puts what the zones' names lead to together with what the file system's own name
// does, whose zone is the home zone unless one of the others has the same address.
func merge(zones []found, own found, home string) []proxy.Target {
	var targets []proxy.Target
	known := func(t proxy.Target) bool {
		return slices.ContainsFunc(targets, func(o proxy.Target) bool { return o.Addr == t.Addr })
	}
	for _, one := range zones {
		for _, t := range one.targets {
			if !known(t) {
				targets = append(targets, t)
			}
		}
	}
	for _, t := range own.targets {
		if !known(t) {
			t.Zone = ""
			if len(own.targets) == 1 {
				t.Zone = home
			}
			targets = append(targets, t)
		}
	}
	return targets
}

func (c *Cloud) resolve(ctx context.Context, zone, server string) ([]proxy.Target, error) {
	name := server + "." // no search list: with one each look-up is several
	if zone != "" {
		name = zone + "." + name
	}
	addresses, err := c.options.Resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	var targets []proxy.Target
	for _, addr := range addresses {
		targets = append(targets, proxy.Target{Zone: zone, Addr: netip.AddrPortFrom(addr.Unmap(), nfsPort)})
	}
	return targets, nil
}
