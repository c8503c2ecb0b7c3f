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
	"bulk":    func(target) []workload { return []workload{newBulk()} },
	"dirs":    func(target) []workload { return []workload{newDirectories()} },
	"sqlite":  func(target) []workload { return []workload{newSQLite()} },
	"mariadb": func(tg target) []workload { return []workload{newMariaDB(!tg.plyfs)} },
	"all": func(target) []workload {
		return []workload{newAppendLog(), newRedoLog(), newPages(), newDirectories(), newSQLite()}
	},
}

// trials plays the named workloads on a target, none of whose cuts may fail.
func trials(t *testing.T, tg target, names ...string) {
	for _, name := range names {
		t.Run(tg.String()+"/"+name, func(t *testing.T) {
			if n := trial(t, tg, env.cuts, 40, 2*time.Second, false, loads[name]); n > 0 {
				t.Errorf("%d cuts failed", n)
			}
		})
	}
}

// alone are the workloads one by one; the sample has them all at once.
func alone() []string {
	if !env.long {
		return nil
	}
	return []string{"append", "redo", "pages", "bulk", "dirs", "sqlite"}
}

// TestControl shows that plain file systems survive all of it.
func TestControl(t *testing.T) {
	trials(t, target{fstype: "ext4"}, append(alone(), "all", "bulk", "mariadb")...)
	trials(t, target{fstype: "xfs"}, append(alone(), "all")...)
}

// TestIgnoredFlushes shows that a disk that loses what was flushed is noticed.
func TestIgnoredFlushes(t *testing.T) {
	if n := trial(t, target{fstype: "ext4"}, max(env.cuts, 10), 50, 2*time.Second, true, loads["append"]); n == 0 {
		t.Error("a disk that ignores flushes lost nothing: these tests cannot fail")
	}
}

// TestPlyfs asks the same of plyfs, and more: whole requests or nothing.
func TestPlyfs(t *testing.T) {
	trials(t, target{fstype: "ext4", plyfs: true, blockSize: 4096, small: true}, append(alone(), "all")...)
	trials(t, target{fstype: "xfs", plyfs: true, blockSize: 4096}, append(alone(), "all", "bulk")...)
	trials(t, target{fstype: "ext4", plyfs: true, blockSize: 16384}, append(alone(), "mariadb")...)
	if env.long {
		trials(t, target{fstype: "xfs", plyfs: true, blockSize: 16384, small: true}, "all", "mariadb")
		trials(t, target{fstype: "ext4", plyfs: true, blockSize: 4096}, "all", "mariadb")
	}
}

// TestFlushesArrive shows that each fsync on the disk's file system reaches the
// recorder as a flush, and that a barrier within one is one too.
func TestFlushesArrive(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs"} {
		w := newAppendLog()
		rec, err := record(target{fstype: fstype}, diskSize, 300*time.Millisecond, w)
		if err != nil {
			t.Fatal(err)
		}
		steps, late := 0, 0
		for _, f := range w.files {
			for _, s := range f.steps {
				steps++
				if rec.tape.durable(int(s.acked)) < int(s.begun) {
					late++
				}
			}
		}
		if steps == 0 || late > 0 {
			t.Errorf("%s: %d of %d acknowledgements had no flush between beginning and end", fstype, late, steps)
		}
		t.Logf("%s: %d acknowledgements, %d flushes", fstype, steps, len(rec.tape.flushes))
		rec.close()
	}
}
