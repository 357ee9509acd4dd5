package cloud_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// roleSTS gives a role's keys for an hour, numbered.
type roleSTS struct {
	given int
	fails error // what it answers instead
	hangs bool
}

func (s *roleSTS) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if s.hangs {
		<-ctx.Done()
		return aws.Credentials{}, ctx.Err()
	}
	if s.fails != nil {
		return aws.Credentials{}, s.fails
	}
	s.given++
	return aws.Credentials{AccessKeyID: fmt.Sprint("ASIA", s.given), SecretAccessKey: "x", CanExpire: true, Expires: time.Now().Add(time.Hour)}, nil
}

func TestARolesKeysServeToTheirEnd(t *testing.T) {
	type step struct {
		at    time.Duration // since the first keys
		fails error
		hangs bool
		want  string // "": an error
		warns int    // how often somebody was warned until then
	}
	out := errors.New("AWS STS is out")
	for _, row := range []struct {
		name  string
		steps []step
	}{
		{"and are asked for once in most of it", []step{{at: 54 * time.Minute, fails: out, want: "ASIA1"}}},
		{"and are renewed before", []step{{at: 56 * time.Minute, want: "ASIA2"}, {at: 110 * time.Minute, fails: out, want: "ASIA2"}}},
		{"where new ones are refused", []step{
			{at: 56 * time.Minute, fails: out, want: "ASIA1", warns: 1},
			{at: 58 * time.Minute, fails: out, want: "ASIA1", warns: 1},
			{at: 60*time.Minute - time.Second, fails: out, want: "ASIA1", warns: 1},
			{at: 61 * time.Minute, fails: out, warns: 1},
		}},
		{"where AWS STS is silent", []step{{at: 56 * time.Minute, hangs: true, want: "ASIA1", warns: 1}, {at: 58 * time.Minute, hangs: true, want: "ASIA1", warns: 1}}},
		{"and are renewed as soon as that works again", []step{
			{at: 56 * time.Minute, fails: out, want: "ASIA1", warns: 1},
			{at: 57 * time.Minute, want: "ASIA2", warns: 1},
			{at: 115 * time.Minute, fails: out, want: "ASIA2", warns: 2},
		}},
		{"and AWS STS is left alone for a while after a failure", []step{{at: 56 * time.Minute, fails: out, want: "ASIA1", warns: 1}, {at: 56*time.Minute + 20*time.Second, want: "ASIA1", warns: 1}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				logger := logrus.New()
				logger.SetOutput(&log)
				source := &roleSTS{}
				keys := cloud.Lasting(source, "arn:aws:iam::123456789012:role/x", logger)
				begun := time.Now()
				if got, err := keys.Retrieve(t.Context()); err != nil || got.AccessKeyID != "ASIA1" {
					t.Fatalf("%s, %v", got.AccessKeyID, err)
				}
				for _, s := range row.steps {
					time.Sleep(s.at - time.Since(begun))
					source.fails, source.hangs = s.fails, s.hangs
					asked := time.Now()
					got, err := keys.Retrieve(t.Context())
					if got.AccessKeyID != s.want || (err == nil) != (s.want != "") {
						t.Errorf("after %v: %q, %v, want %q", s.at, got.AccessKeyID, err, s.want)
					}
					if took := time.Since(asked); took > 3*time.Second {
						t.Errorf("after %v: it took %v", s.at, took)
					}
					if n := strings.Count(log.String(), "level=warning"); n != s.warns {
						t.Errorf("after %v: %d warnings, want %d: %s", s.at, n, s.warns, log.String())
					}
				}
			})
		})
	}
}
