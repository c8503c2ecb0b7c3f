package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosix runs go-fuse's suite, each test on an empty volume.
func TestPosix(t *testing.T) {
	for name, test := range posixtest.All {
		t.Run(name, func(t *testing.T) { test(t, newMount(t, cipherBlock).dir) })
	}
}

const cipherBlock = 4096
