package integration

import (
	"maps"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosixtest runs go-fuse's own suite.
func TestPosixtest(t *testing.T) {
	var cases []posixCase
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		cases = append(cases, posixCase{name, func(t *testing.T, p place) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("wants a process's own lock to be in its way, which POSIX and ext4 say it is not")
			}
			if name == "OpenSymlinkRace" && !p.plyfs() {
				t.Skip("asks whether a daemon follows symlinks; a plain directory has none")
			}
			posixtest.All[name](t, p.dir)
		}})
	}
	onBoth(t, cases)
}
