//go:build !race

package harness

// raceDetector says whether istag is built with the race detector: it is when we are.
const raceDetector = false
