package doctor_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

func TestTextAndJSON(t *testing.T) {
	fs := "fs-0123456789abcdef0"
	findings := []doctor.Finding{
		{Check: "kernel NFS", Outcome: doctor.OK, Found: "Linux 6.12"},
		{Check: "DNS", FileSystem: fs, Outcome: doctor.Warning, Found: "leads nowhere", Why: "no such host", Do: "use the VPC's resolver"},
		{Check: "port", FileSystem: fs, Target: "a=10.0.1.5:2049", Outcome: doctor.Failed, Found: "silent\x07", Why: "packets vanish", Do: "let them in", Took: 4012 * time.Millisecond},
		{Check: "access", FileSystem: fs, Outcome: doctor.Skipped, Found: "not asked: port failed"},
	}
	const want = `ok    kernel NFS                Linux 6.12

FILE SYSTEM fs-0123456789abcdef0
warn  DNS                       leads nowhere
      why: no such host
      do:  use the VPC's resolver
FAIL  port a=10.0.1.5:2049      silent? (4s)
      why: packets vanish
      do:  let them in
skip  access                    not asked: port failed

1 failed, 1 to be looked at, 1 not asked because of that
`
	var out strings.Builder
	var report doctor.Report
	text := doctor.Text{To: &out}
	for _, f := range findings {
		report.Add(f)
		if err := text.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := text.End(report); err != nil || out.String() != want {
		t.Errorf("got\n%s\nwant\n%s, %v", out.String(), want, err)
	}
	content, err := report.JSON()
	var read struct {
		Healthy  bool
		Failed   int
		Findings []map[string]any
	}
	if err != nil || json.Unmarshal(content, &read) != nil || read.Healthy || read.Failed != 1 || len(read.Findings) != 4 {
		t.Fatalf("%s, %v", content, err)
	}
	if got := read.Findings[2]; got["check"] != "port" || got["outcome"] != "failed" || got["do"] != "let them in" || got["took_ns"] != 4.012e9 {
		t.Errorf("the finding is %v", got)
	}
}

func TestAllIsWellIfNothingFails(t *testing.T) {
	for _, row := range []struct {
		outcome doctor.Outcome
		healthy bool
		says    string
	}{
		{doctor.OK, true, "all is well"},
		{doctor.Warning, true, "0 failed, 1 to be looked at"},
		{doctor.Failed, false, "1 failed"},
	} {
		var report doctor.Report
		report.Add(doctor.Finding{Outcome: row.outcome})
		var out strings.Builder
		err := (&doctor.Text{To: &out}).End(report)
		if report.Healthy != row.healthy || err != nil || !strings.Contains(out.String(), row.says) {
			t.Errorf("%s: %v, %q, %v", row.outcome, report.Healthy, out.String(), err)
		}
	}
}
