package cloud_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

func TestPlaceTellsWhoSaysSo(t *testing.T) {
	there := func(w http.ResponseWriter, r *http.Request) { metadata(w, r, "eu-west-1b", "euw1-az3") }
	absent := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	for _, row := range []struct {
		name    string
		says    func(http.ResponseWriter, *http.Request)
		options cloud.Options
		env     string // AWS_DEFAULT_REGION
		want    string
		failed  bool
	}{
		{"the metadata", there, cloud.Options{}, "", "eu-west-1 by the host's metadata, eu-west-1b euw1-az3 by the host's metadata", false},
		{"the settings", there, cloud.Options{Region: "us-east-1", Zone: "us-east-1a"}, "", "us-east-1 by AWS_REGION, us-east-1a  by EFS_ZONE", false},
		{"the environment, and the metadata the zone", there, cloud.Options{}, "us-east-1", "us-east-1 by AWS_DEFAULT_REGION, eu-west-1b euw1-az3 by the host's metadata", false},
		{"nobody", absent, cloud.Options{}, "", " by ,   by ", true},
		{"the settings alone", absent, cloud.Options{Region: "us-east-1"}, "", "us-east-1 by AWS_REGION,   by ", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			withMetadata(t, row.says)
			t.Setenv("AWS_DEFAULT_REGION", row.env)
			p := cloud.New(row.options).Place(t.Context())
			got := fmt.Sprintf("%s by %s, %s %s by %s", p.Region, p.RegionFrom, p.Zone, p.ZoneID, p.ZoneFrom)
			if got != row.want || (p.Metadata != nil) != row.failed {
				t.Errorf("got  %s, %v\nwant %s", got, p.Metadata, row.want)
			}
		})
	}
}

// The metadata may answer now: Region and HomeZone then know them as well, which remember for a
// while that they did not.
func TestPlaceAsksAgain(t *testing.T) {
	a := withMetadata(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	c := cloud.New(cloud.Options{})
	if zone := c.HomeZone(t.Context()); zone != "" {
		t.Fatalf("it is %s", zone)
	}
	a.mu.Lock()
	a.says = func(w http.ResponseWriter, r *http.Request) { metadata(w, r, "eu-west-1b", "euw1-az3") }
	a.mu.Unlock()
	if p := c.Place(t.Context()); p.Zone != "eu-west-1b" || c.HomeZone(t.Context()) != "eu-west-1b" {
		t.Errorf("%+v, home zone %q", p, c.HomeZone(t.Context()))
	}
}

// sts answers GetCallerIdentity and AssumeRole.
func sts(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	w.Header().Set("Content-Type", "text/xml")
	switch r.Form.Get("Action") {
	case "GetCallerIdentity":
		fmt.Fprint(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/web/i-1</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	case "AssumeRole":
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>y</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
}

func TestIdentity(t *testing.T) {
	t.Run("is told by AWS STS, with the key's id and where it is from", func(t *testing.T) {
		newAPI(t, sts)
		who, err := cloud.New(cloud.Options{}).Identity(t.Context(), cloud.FileSystem{}, "")
		if err != nil || who.ARN != "arn:aws:sts::123456789012:assumed-role/web/i-1" || who.KeyID != keyID || who.From != "EnvConfigCredentials" || !who.Expires.IsZero() || who.Unnamed != nil {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("of a role ends", func(t *testing.T) {
		newAPI(t, sts)
		who, err := cloud.New(cloud.Options{}).Identity(t.Context(), cloud.FileSystem{}, "arn:aws:iam::123456789012:role/x")
		if err != nil || who.KeyID != "ASIAROLE" || who.Expires.IsZero() {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("has no name if STS does not say it", func(t *testing.T) {
		newAPI(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusForbidden, "AccessDenied", "no") })
		who, err := cloud.New(cloud.Options{}).Identity(t.Context(), cloud.FileSystem{}, "")
		if err != nil || who.KeyID != keyID || who.ARN != "" || who.Unnamed == nil || strings.Contains(fmt.Sprintf("%+v", who), secretKey) {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("is none without credentials", func(t *testing.T) {
		newAPI(t, sts)
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
			t.Setenv(name, "")
		}
		_, err := cloud.New(cloud.Options{}).Identity(t.Context(), cloud.FileSystem{}, "")
		if err == nil {
			t.Fatal("there is one")
		}
		if said, advice := cloud.Explanation(err); strings.Contains(said, advice) || !strings.Contains(advice, "AWS_ACCESS_KEY_ID") {
			t.Errorf("%q, advice %q", said, advice)
		}
	})
}

func TestClock(t *testing.T) {
	for _, row := range []struct {
		name string
		want time.Duration
	}{
		{"that is right", 0},
		{"that is ahead", 10 * time.Minute},
		{"that is behind", -10 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(-row.want).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusForbidden) // who does not sign is refused, with a date
			})
			ahead, err := cloud.New(cloud.Options{}).Clock(t.Context(), "eu-west-1")
			if off := ahead - row.want; err != nil || off.Abs() > 3*time.Second {
				t.Errorf("%v ahead, want %v, %v", ahead, row.want, err)
			}
		})
	}
	t.Run("that nobody tells", func(t *testing.T) {
		newAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil })
		if ahead, err := cloud.New(cloud.Options{}).Clock(t.Context(), "eu-west-1"); err == nil {
			t.Errorf("%v", ahead)
		}
	})
	t.Run("of AWS, out of reach", func(t *testing.T) {
		newAPI(t, nil).Close()
		if ahead, err := cloud.New(cloud.Options{}).Clock(t.Context(), "eu-west-1"); err == nil {
			t.Errorf("%v", ahead)
		}
	})
}

func TestNamesAreDNSs(t *testing.T) {
	newAPI(t, nil)
	regional := fileSystem + ".efs.eu-west-1.amazonaws.com."
	c := cloud.New(cloud.Options{Resolver: names(t, map[string]string{regional: "10.0.2.1"})})
	if got, err := c.Names(t.Context(), cloud.FileSystem{ID: fileSystem}); err != nil || fmt.Sprint(got) != "[10.0.2.1:2049]" {
		t.Errorf("%v, %v", got, err)
	}
}
