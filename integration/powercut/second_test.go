package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// recovery records what becomes of the disk of a cut: the backing file system and
// the volume are mounted, looked at, written to and unmounted, or the daemon is
// killed. problems are of the look.
func (rec *recording) recovery(disk string, c cutAt) (second *recording, problems []string, err error) {
	dir := rec.path("second")
	if err := os.RemoveAll(dir); err != nil {
		return nil, nil, err
	}
	r := &rig{target: rec.target, dir: dir}
	for _, d := range []string{dir, r.path("back"), r.path("mnt"), r.path("dev")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	if err := errors.Join(os.Rename(disk, r.path("base")), os.Symlink(rec.path("keys"), r.path("keys"))); err != nil {
		return nil, nil, err
	}
	p, err := startRecorder(dir)
	if err != nil {
		return nil, nil, err
	}
	second = &recording{rig: r, loads: rec.loads}
	problems = second.recover(p, c)
	if err := p.stop(); err != nil {
		return nil, problems, err
	}
	second.tape, err = readTape(dir)
	return second, problems, err
}

// recover mounts, looks and ends while p records.
func (rec *recording) recover(p *recorderProc, c cutAt) (problems []string) {
	s, err := rec.up(p.disk, true)
	if err != nil {
		return []string{fmt.Sprintf("mount: %v", err)}
	}
	watchdog := time.AfterFunc(4*patience, s.hang)
	defer watchdog.Stop()
	for _, w := range rec.loads {
		for _, p := range w.verify(filepath.Join(s.top(), w.name()), c.at, rec.plyfs) {
			problems = append(problems, w.name()+": "+p)
		}
	}
	if err := usable(s.top()); err != nil {
		problems = append(problems, err.Error())
	}
	rec.end = p.clock.now()
	if c.seed%2 == 0 {
		s.kill()
	} else if err := s.down(); err != nil {
		problems = append(problems, fmt.Sprintf("unmount: %v", err))
	}
	return problems
}

// twice cuts each recovery from a cut n times.
func (rec *recording) twice(cuts []cutAt, n int, rng *rand.Rand) (failed []failure, tried int, err error) {
	err = rec.states(cuts, func(i int, disk string) error {
		c := cuts[i]
		second, problems, err := rec.recovery(disk, c)
		if len(problems) > 0 {
			failed = append(failed, failure{c, problems})
		}
		if err != nil || len(problems) > 0 {
			return err
		}
		defer second.close()
		again := second.choose(n, rng, false)
		for k := range again {
			again[k].at = c.at
		}
		tried += len(again)
		bad, err := second.play(again)
		for _, f := range bad {
			failed = append(failed, failure{f.cut, append([]string{"after " + c.String()}, f.problems...)})
		}
		return err
	})
	return failed, tried, err
}

// TestSecondCut lets the power fail once more while what the first time left is
// recovered, by the backing file system and by the volume.
func TestSecondCut(t *testing.T) {
	type kind struct {
		target
		load          string
		first, second int
	}
	kinds := []kind{{target{fstype: "ext4", plyfs: true, blockSize: 4096, small: true}, "all", 1, 3}}
	if env.long {
		kinds = []kind{
			{target{fstype: "ext4", plyfs: true, blockSize: 4096, small: true}, "all", 3, 5},
			{target{fstype: "ext4", plyfs: true, blockSize: 4096, small: true}, "bulk", 3, 5},
			{target{fstype: "xfs", plyfs: true, blockSize: 4096}, "all", 3, 5},
			{target{fstype: "xfs", plyfs: true, blockSize: 16384, small: true}, "bulk", 3, 5},
			{target{fstype: "ext4", plyfs: true, blockSize: 16384}, "mariadb", 2, 4},
			{target{fstype: "ext4"}, "all", 2, 5}, // the control
		}
	}
	for _, k := range kinds {
		t.Run(k.String()+"/"+k.load, func(t *testing.T) {
			start := time.Now()
			rng := rand.New(rand.NewPCG(env.seed, hash(t.Name())))
			rec, err := record(k.target, diskSize, time.Second, loads[k.load](k.target)...)
			if err != nil {
				t.Fatalf("PLYFS_SEED=%d: recording: %v", env.seed, err)
			}
			failed, tried, err := rec.twice(rec.choose(k.first, rng, false), k.second, rng)
			if err != nil {
				t.Fatalf("PLYFS_SEED=%d: %v", env.seed, err)
			}
			for _, f := range failed {
				t.Errorf("PLYFS_SEED=%d %s: %v", env.seed, k.target, f)
			}
			if len(failed) == 0 || os.Getenv("PLYFS_KEEP") == "" {
				rec.close()
			}
			t.Logf("PLYFS_SEED=%d %s: %d of %d second cuts failed; %.0f s", env.seed, k.target, len(failed), tried, time.Since(start).Seconds())
		})
	}
}
