package efs

import (
	"regexp"
	"strings"
)

var (
	// The API's own patterns (docs.aws.amazon.com/efs/latest/ug/API_AccessPointDescription.html).
	accessPointID = regexp.MustCompile(`^fsap-[0-9a-f]{8,40}$`)
	// zoneID is "euw1-az2" (docs.aws.amazon.com/ram/latest/userguide/working-with-az-ids.html).
	zoneID = regexp.MustCompile(`^[a-z]{2,5}[0-9]+-[a-z0-9-]*az[0-9]+$`)
)

// IsAccessPoint tells whether a text is the id of an access point.
func IsAccessPoint(id string) bool { return accessPointID.MatchString(id) }

// IsZoneID tells whether a zone is given by its id, which means the same in every account,
// and not by its name, which does not.
func IsZoneID(zone string) bool { return zoneID.MatchString(zone) }

// ServerName is a file system's name in DNS and in its certificate:
// fs-ID.efs.REGION.SUFFIX.
func ServerName(fileSystem, region string) string {
	return fileSystem + ".efs." + region + "." + DNSSuffix(region)
}

// RegionOf reads the region out of a file system's DNS name; "" if it is none.
func RegionOf(name string) string {
	_, rest, found := strings.Cut(name, ".efs.")
	if !found {
		return ""
	}
	region, suffix, _ := strings.Cut(rest, ".")
	if suffix != DNSSuffix(region) {
		return ""
	}
	return region
}

// partition is one of AWS's, of which an account in another knows nothing.
type partition struct {
	prefix string // of its regions' names
	name   string // in ARNs
	suffix string // in DNS, as in the configuration of AWS's own mount helper
}

func partitionOf(region string) partition {
	for _, p := range []partition{
		{"cn-", "aws-cn", "amazonaws.com.cn"},
		{"us-gov-", "aws-us-gov", "amazonaws.com"},
		{"eusc-", "aws-eusc", "amazonaws.eu"},
		{"us-isob-", "aws-iso-b", "sc2s.sgov.gov"},
		{"us-isof-", "aws-iso-f", "csp.hci.ic.gov"},
		{"us-iso-", "aws-iso", "c2s.ic.gov"},
		{"eu-isoe-", "aws-iso-e", "cloud.adc-e.uk"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p
		}
	}
	return partition{"", "aws", "amazonaws.com"}
}

// DNSSuffix is the DNS suffix of a region's partition.
func DNSSuffix(region string) string { return partitionOf(region).suffix }

// Partition is the partition of a region in ARNs.
func Partition(region string) string { return partitionOf(region).name }
