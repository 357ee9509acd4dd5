//go:build integration

package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/efs"
	"github.com/aws/aws-sdk-go-v2/service/efs/types"
)

// accessPoint is the one of a directory that the plugin has made, and how many there are in all.
func (s *efsSite) accessPoint(dir string) (made types.AccessPointDescription, count int) {
	s.t.Helper()
	all, err := s.api.DescribeAccessPoints(s.t.Context(), &efs.DescribeAccessPointsInput{FileSystemId: &s.id})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, one := range all.AccessPoints {
		if aws.ToString(one.RootDirectory.Path) == dir {
			return one, len(all.AccessPoints)
		}
	}
	s.t.Fatalf("no access point of %s: %+v", dir, all.AccessPoints)
	return made, 0
}

// testExclusive has a second plugin, which is another host to the first, take an exclusive volume by
// TLS, IAM and an access point while the first is stopped: lease and eviction go that way too.
func (s *efsSite) testExclusive(t *testing.T) {
	s.set("EFS_IAM=on")
	s.mustCreate("one", "access=exclusive", "accesspoint=create", "mode=0777", "iam=on")
	point, _ := s.accessPoint("/one")
	s.point(*point.AccessPointId, "/one", 73)
	run(t, s.h, "docker run -d --name writer --network none -v one:/data "+fmt.Sprintf(journal, "first"))
	written := func() string {
		text, err := os.ReadFile(s.server.Dir("/one/journal"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	s.eventually(30*time.Second, "the first writes", func() bool { return written() != "" })

	const plugin = "'^/?docker-volume-efs(-worker)? serve'" // the managed one's processes
	run(t, s.h, "pkill -STOP -f "+plugin)
	defer func() { run(t, s.h, "pkill -CONT -f "+plugin+" || true") }()
	other := startBare(t, hosts(t), s.h.Name(), "EFS_ROOT=/", "EFS_FILESYSTEM="+s.id, "EFS_IAM=on",
		"EFS_CA_FILE="+s.data()+"/ca.pem", "AWS_ENDPOINT_URL="+s.endpoint(), "EFS_LOG_LEVEL=debug")
	// The first mount of the file system takes some of the call's time, so a second call may be needed, as
	// Docker's own caller makes one.
	begun, mountpoint := time.Now(), ""
	s.eventually(time.Minute, "the second has it", func() (has bool) {
		var err error
		if mountpoint, err = other.mount("one", "second"); err != nil && !strings.Contains(err.Error(), "has it for itself") {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Logf("taken after %.1f s", time.Since(begun).Seconds())
	if got := other.mustGet("one").Status.Transport; got != "NFSv4.1, relay, TLS, IAM" {
		t.Errorf("transport %q", got)
	}
	run(t, s.h, "echo second 1 >>"+mountpoint+"/journal")
	run(t, s.h, "pkill -CONT -f "+plugin)
	s.eventually(time.Minute, "the first gets an error", func() bool {
		return strings.Contains(run(t, s.h, "docker logs writer 2>&1"), "cannot write")
	})
	if _, after, found := strings.Cut(written(), "second 1\n"); !found || after != "" {
		t.Errorf("after the second's line, found: %v, there is %q", found, after)
	}
	other.mustUnmount("one", "second")
	run(t, s.h, "docker rm -f writer")
	s.mustRemove("one")
	s.set("EFS_IAM=off")
}
