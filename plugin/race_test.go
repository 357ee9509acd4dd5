//go:build race

package plugin

// raceFactor is how much slower things may be under the race detector.
const raceFactor = 5
