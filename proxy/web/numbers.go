package web

import (
	"fmt"
	"time"
)

// bytesText writes a number of bytes as people read it.
func bytesText(n uint64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	const prefixes = "KMGTPE"
	for value >= 999.5 && prefix < len(prefixes)-1 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%s %ciB", threeDigits(value), prefixes[prefix])
}

func rttText(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return threeDigits(float64(d)/float64(time.Microsecond)) + " µs"
	default:
		return threeDigits(float64(d)/float64(time.Millisecond)) + " ms"
	}
}

// threeDigits keeps numbers of one column about as wide as each other.
func threeDigits(value float64) string {
	switch {
	case value < 9.995:
		return fmt.Sprintf("%.2f", value)
	case value < 99.95:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.0f", value)
	}
}

// agoText writes how long something is ago.
func agoText(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", d/(24*time.Hour))
	}
}

// stampText and attributeText write a time, for people and for the datetime attribute.
// One zone for all hosts: pages of two of them are laid side by side.
func stampText(t time.Time) string     { return t.UTC().Format("2006-01-02 15:04:05") }
func attributeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func recoveriesText(n uint64) string {
	return fmt.Sprintf("locks may have been lost: moved %d times to a mount target that did not know this host's client", n)
}
