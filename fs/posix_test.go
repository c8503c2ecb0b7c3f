package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosix runs go-fuse's suite, each test on an empty volume.
//
// FcntlFlockLocksFile is left out, as go-fuse leaves it out: it wants a
// process's lock to keep the same process out, which POSIX locks never do.
func TestPosix(t *testing.T) {
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, newMount(t, 4096).dir) })
	}
}
