package doctor

import (
	"encoding/json"
	"fmt"
	"time"
)

// Outcome is how a check ended.
type Outcome string

// The outcomes.
const (
	OK Outcome = "ok"
	// Warning is what works and should be looked at.
	Warning Outcome = "warning"
	Failed  Outcome = "failed"
	// Skipped was not asked, because what it needs failed.
	Skipped Outcome = "skipped"
)

// Finding is what a check found. Its texts are one line each.
type Finding struct {
	Check string `json:"check"`
	// FileSystem and Target are what it is about; empty: the host, the whole file system.
	FileSystem string  `json:"filesystem,omitempty"`
	Target     string  `json:"target,omitempty"`
	Outcome    Outcome `json:"outcome"`
	Found      string  `json:"found"`
	// Why is the cause of what is not well, Do what changes it.
	Why  string        `json:"why,omitempty"`
	Do   string        `json:"do,omitempty"`
	Took time.Duration `json:"took_ns"`
}

// Fine is the finding of a check that has nothing to complain of.
func Fine(format string, args ...any) Finding {
	return Finding{Outcome: OK, Found: fmt.Sprintf(format, args...)}
}

// Warn is that of one that works and should be looked at.
func Warn(found, why, do string) Finding {
	return Finding{Outcome: Warning, Found: found, Why: why, Do: do}
}

// Fail is that of one that does not work.
func Fail(found, why, do string) Finding {
	return Finding{Outcome: Failed, Found: found, Why: why, Do: do}
}

// Usable tells whether what needs it can be asked.
func (f Finding) Usable() bool { return f.Outcome == OK || f.Outcome == Warning }

// name tells findings of one check apart.
func (f Finding) name() string {
	if f.Target == "" {
		return f.Check
	}
	return f.Check + " " + f.Target
}

// Report is all findings of one examination.
type Report struct {
	// Healthy tells whether nothing has failed. What is skipped is so because something has.
	Healthy  bool      `json:"healthy"`
	Failed   int       `json:"failed"`
	Warnings int       `json:"warnings"`
	Skipped  int       `json:"skipped"`
	Findings []Finding `json:"findings"`
}

// Add adds a finding.
func (r *Report) Add(f Finding) {
	r.Findings = append(r.Findings, f)
	switch f.Outcome {
	case Failed:
		r.Failed++
	case Warning:
		r.Warnings++
	case Skipped:
		r.Skipped++
	case OK:
	}
	r.Healthy = r.Failed == 0
}

// JSON is the report as programs read it.
func (r Report) JSON() ([]byte, error) {
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}
