package main

import (
	"fmt"
	"maps"
	"slices"
)

// The ways to a mount target of EFS.
const (
	plainWay = "relay"
	tlsWay   = "relay, TLS and IAM"
)

// protected measures the mount of a further volume of an EFS file system: plain, and by TLS with
// an identity. c.server is its only mount target.
func protected(c config) (any, error) {
	if err := fresh(); err != nil {
		return nil, err
	}
	s, _, err := serve(c, "fs-0123456789abcdef0", "EFS_TARGETS=a="+c.server, "EFS_ZONE=a", "EFS_ROOT=/protected", "EFS_CA_FILE="+c.authority, "AWS_REGION=eu-west-1",
		"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	options := map[string]map[string]string{
		plainWay: {"via": "relay", "tls": "off", "iam": "off"},
		tlsWay:   {"tls": "on", "iam": "on"},
	}
	all := map[string]*Times{plainWay: {}, tlsWay: {}}
	name := func(way string, i int) string { return fmt.Sprintf("bench%d-%d", len(way), i) }
	for way := range options {
		for i := range c.rounds + 1 {
			if err := s.call("Create", volume{Name: name(way, i), Opts: options[way]}); err != nil {
				return nil, err
			}
		}
		// The first volume keeps the file system in use.
		if err := s.call("Mount", volume{Name: name(way, c.rounds), ID: "standing"}); err != nil {
			return nil, err
		}
	}
	for i := range c.rounds {
		ways := slices.Sorted(maps.Keys(all))
		if i%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			v := volume{Name: name(way, i), ID: "bench"}
			if err := timed(all[way], func() error { return s.call("Mount", v) }); err != nil {
				return nil, err
			}
			if err := s.call("Unmount", v); err != nil {
				return nil, err
			}
		}
	}
	return summaries(all), nil
}
