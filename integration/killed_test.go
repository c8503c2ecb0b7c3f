package integration

import (
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// TestKilledWhileMounting kills daemons just as their mounts come up: none may
// stay in the kernel, waiting for an answer that it should give itself.
func TestKilledWhileMounting(t *testing.T) {
	v := newVolume(t)
	defer v.close(t)
	for range 25 {
		cmd := exec.Command(env.bin, "mount", "--keystore", v.keys, "-f", v.cipher, v.mnt)
		cmd.Env = scratch.Environ(v.root)
		p, err := process.Start(cmd)
		check(t, err)
		for end := time.Now().Add(startTimeout); !scratch.IsMount(v.mnt); time.Sleep(time.Millisecond / 4) {
			if p.Exited() || time.Now().After(end) {
				p.Dump()
				t.Fatal("no mount")
			}
		}
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
		p.Signal(unix.SIGKILL)
		if !p.Wait(startTimeout) {
			unix.Unmount(v.mnt, unix.MNT_FORCE) // which frees it
			p.Wait(startTimeout)
			t.Fatal("a daemon that was killed waits for its own mount")
		}
		for scratch.IsMount(v.mnt) {
			check(t, unix.Unmount(v.mnt, unix.MNT_DETACH))
		}
	}
}
