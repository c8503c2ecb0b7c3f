//go:build !race

package cipher_test

const raceDetector = false
