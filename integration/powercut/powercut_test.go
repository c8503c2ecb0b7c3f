package powercut

import (
	"testing"
	"time"
)

var loads = map[string]func() []workload{
	"append": func() []workload { return []workload{newAppendLog()} },
}

func TestControl(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			if n := trial(t, target{fstype: fstype}, env.cuts, 50, 2*time.Second, false, loads["append"]); n > 0 {
				t.Errorf("%d cuts failed", n)
			}
		})
	}
}

func TestIgnoredFlushes(t *testing.T) {
	if n := trial(t, target{fstype: "ext4"}, max(env.cuts, 10), 50, 2*time.Second, true, loads["append"]); n == 0 {
		t.Error("no failure")
	}
}

func TestPlyfs(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			if n := trial(t, target{fstype: fstype, plyfs: true, blockSize: 4096}, env.cuts, 50, 2*time.Second, false, loads["append"]); n > 0 {
				t.Errorf("%d cuts failed", n)
			}
		})
	}
}
