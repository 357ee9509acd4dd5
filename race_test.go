//go:build race

package main

// raceDetector takes memory for itself.
const raceDetector = true
