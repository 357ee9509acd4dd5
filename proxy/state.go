package proxy

import "time"

// Health is what is known of a mount target.
type Health string

const (
	// Unknown: not checked yet; it is used as if it were up.
	Unknown Health = "unknown"
	// Up: it answers.
	Up Health = "up"
	// Doubt: something failed, not yet enough to leave it; it is checked faster.
	Doubt Health = "doubt"
	// Down: it failed Fall checks, or refused a connection. It is used only when
	// all are down.
	Down Health = "down"
)

// GroupState is a moment's picture of a [Group].
type GroupState struct {
	FileSystem string        `json:"filesystem"`
	Home       string        `json:"home_zone,omitempty"`
	Current    Target        `json:"current"`
	Targets    []TargetState `json:"targets"`
	// Moves counts moves by their cause since the start.
	Moves map[Cause]uint64 `json:"moves"`
	// Recent are the latest moves, the newest first.
	Recent []Move `json:"recent_moves"`
}

// TargetState is a moment's picture of one mount target.
type TargetState struct {
	Target
	InUse   bool   `json:"in_use"`
	Drained bool   `json:"drained"`
	Health  Health `json:"health"`
	// Since is when Health became what it is.
	Since time.Time `json:"since,omitzero"`
	// Why is the failure that led to Doubt or Down.
	Why string `json:"why,omitempty"`
	// RTT is the smoothed time of a NULL call, connection excluded; 0 if none was answered.
	RTT      time.Duration `json:"rtt_ns"`
	Checked  time.Time     `json:"checked,omitzero"`
	Checks   uint64        `json:"checks"`
	Failures uint64        `json:"failures"`
}

// Cause says why a file system was moved to another mount target.
type Cause string

const (
	CauseRefused Cause = "refused" // connection refused or reset, and no new one
	CauseTimeout Cause = "timeout" // no progress and no answer to a check
	CauseCheck   Cause = "check"   // Fall checks failed
	CauseDrain   Cause = "drain"   // the operator's wish
	CauseHome    Cause = "home"    // return to the home zone
	CauseGone    Cause = "gone"    // the mount target was deleted
)

// Move is one change of the mount target in use.
type Move struct {
	At    time.Time `json:"at"`
	From  Target    `json:"from"`
	To    Target    `json:"to"`
	Cause Cause     `json:"cause"`
	Why   string    `json:"why"`
}
