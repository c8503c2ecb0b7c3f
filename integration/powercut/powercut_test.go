package powercut

import (
	"testing"
	"time"
)

// loads are the sets of workloads that are recorded together.
var loads = map[string]func(target) []workload{
	"append":  func(target) []workload { return []workload{newAppendLog()} },
	"redo":    func(target) []workload { return []workload{newRedoLog()} },
	"pages":   func(target) []workload { return []workload{newPages()} },
	"dirs":    func(target) []workload { return []workload{newDirectories()} },
	"sqlite":  func(target) []workload { return []workload{newSQLite()} },
	"mariadb": func(tg target) []workload { return []workload{newMariaDB(!tg.plyfs)} },
	"all": func(target) []workload {
		return []workload{newAppendLog(), newRedoLog(), newPages(), newDirectories(), newSQLite()}
	},
}

// each runs every workload alone, or with the sample all of them at once.
func each(t *testing.T, tg target) {
	for name, make := range loads {
		t.Run(tg.String()+"/"+name, func(t *testing.T) {
			if n := trial(t, tg, env.cuts, 40, 2*time.Second, false, make); n > 0 {
				t.Errorf("%d cuts failed", n)
			}
		})
	}
}

func TestControl(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		each(t, target{fstype: fstype})
	}
}

func TestPlyfs(t *testing.T) {
	each(t, target{fstype: "ext4", plyfs: true, blockSize: 4096})
	each(t, target{fstype: "xfs", plyfs: true, blockSize: 4096})
	each(t, target{fstype: "ext4", plyfs: true, blockSize: 16384})
}

func TestIgnoredFlushes(t *testing.T) {
	if n := trial(t, target{fstype: "ext4"}, max(env.cuts, 10), 50, 2*time.Second, true, loads["append"]); n == 0 {
		t.Error("no failure")
	}
}
