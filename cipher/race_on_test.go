//go:build race

package cipher_test

// The race detector makes sync.Pool drop what it holds.
const raceDetector = true
