package proxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// nfsPort is the only port EFS serves (RFC 8881 section 2.9.3).
const nfsPort = 2049

// Target is a mount target: the address of a file system in one availability
// zone.
type Target struct {
	// Zone is the availability zone's name; empty when it is not known.
	Zone string         `json:"zone,omitempty"`
	Addr netip.AddrPort `json:"addr"`
	// Backup targets are used only when no other one is usable.
	Backup bool `json:"backup,omitempty"`
}

// String returns "zone=address:port", or the address alone.
func (t Target) String() string {
	if t.Zone == "" {
		return t.Addr.String()
	}
	return t.Zone + "=" + t.Addr.String()
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ParseTargets reads static mount targets, "zone=addr[:port],…". An empty text
// is no target. A zone has one mount target, so a zone given twice is an error.
func ParseTargets(text string) ([]Target, error) {
	var targets []Target
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		target, err := parseTarget(item)
		if err != nil {
			return nil, fmt.Errorf("mount target %q: %w; write zone=address[:port],…", item, err)
		}
		if slices.ContainsFunc(targets, func(t Target) bool { return t.Zone == target.Zone }) {
			return nil, fmt.Errorf("mount target %q: zone %s is given twice", item, target.Zone)
		}
		targets = append(targets, target)
	}
	return targets, nil
}

// ParseTarget reads one mount target, "zone=addr[:port][,backup]".
func ParseTarget(text string) (Target, error) {
	item, backup := strings.CutSuffix(strings.TrimSpace(text), ",backup")
	target, err := parseTarget(item)
	if err != nil {
		return Target{}, fmt.Errorf("mount target %q: %w; write zone=address[:port][,backup]", text, err)
	}
	target.Backup = backup
	return target, nil
}

func parseTarget(item string) (Target, error) {
	zone, text, ok := strings.Cut(item, "=")
	if !ok || !zoneName.MatchString(zone) {
		return Target{}, fmt.Errorf("%q is not a zone's name", zone)
	}
	alone := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		alone = text[1 : len(text)-1]
	}
	full := netip.AddrPort{}
	if addr, err := netip.ParseAddr(alone); err == nil {
		full = netip.AddrPortFrom(addr, nfsPort)
	} else if full, err = netip.ParseAddrPort(text); err != nil || full.Port() == 0 {
		return Target{}, fmt.Errorf("%q is not an address", text)
	}
	addr := full.Addr().Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() {
		return Target{}, fmt.Errorf("nobody can be reached at %s", addr)
	}
	return Target{Zone: zone, Addr: netip.AddrPortFrom(addr, full.Port())}, nil
}

// HomeFirst returns the targets with the one of the home zone in front; the
// others keep their order. An empty or unknown home changes nothing.
func HomeFirst(targets []Target, home string) []Target {
	ordered := slices.Clone(targets)
	if home == "" {
		return ordered // not the zone of targets whose zone is not known
	}
	slices.SortStableFunc(ordered, func(a, b Target) int {
		return boolOrder(a.Zone == home) - boolOrder(b.Zone == home)
	})
	return ordered
}

func boolOrder(first bool) int {
	if first {
		return 0
	}
	return 1
}
