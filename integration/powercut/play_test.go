package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// workload writes below a directory of its own and knows what was acknowledged
// when.
type workload interface {
	name() string
	// setup is not recorded: power holds.
	setup(dir string) error
	// run goes on until stop is closed. An error ends the test.
	run(dir string, c *clock, stop <-chan struct{}) error
	// verify compares with what was acknowledged when the recorder had seen
	// at entries, and says what is wrong. With strict, what plyfs promises
	// beyond the file system below is asked for too.
	verify(dir string, at uint64, strict bool) []string
}

// recording is one run of workloads on a target, up to a clean unmount.
type recording struct {
	*rig
	loads []workload
	tape  *tape
	acks  []uint64
	begin uint64 // when the workloads began; mounting comes before
	end   uint64 // when they ended; unmounting comes after
}

// diskSize is the length of the disks, in bytes: mkfs.xfs wants 300 MB.
const diskSize = 640 << 20

// record runs workloads for a time on a new target.
func record(tg target, size int64, d time.Duration, loads ...workload) (*recording, error) {
	dir, err := os.MkdirTemp(env.scratch, tg.String()+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // mysqld is somebody else
		return nil, err
	}
	r, err := newRig(dir, tg, size)
	if err != nil {
		return nil, err
	}
	rec := &recording{rig: r, loads: loads}
	s, err := r.up(r.path("base"), false)
	if err != nil {
		return nil, err
	}
	for _, w := range loads {
		sub := filepath.Join(s.top(), w.name())
		if err := os.Mkdir(sub, 0o755); err != nil {
			s.kill()
			return nil, err
		}
		if err := w.setup(sub); err != nil {
			s.kill()
			return nil, fmt.Errorf("%s: setup: %w", w.name(), err)
		}
	}
	if err := s.down(); err != nil {
		return nil, err
	}
	p, err := startRecorder(dir)
	if err != nil {
		return nil, err
	}
	err = rec.perform(p, d)
	if err2 := p.stop(); err != nil || err2 != nil {
		return nil, errors.Join(err, err2)
	}
	rec.acks = p.clock.acks
	rec.tape, err = readTape(dir)
	return rec, err
}

func (rec *recording) perform(p *recorderProc, d time.Duration) error {
	s, err := rec.up(p.disk, true)
	if err != nil {
		return err
	}
	rec.begin = p.clock.now()
	stop := make(chan struct{})
	errs := make([]error, len(rec.loads))
	var wg sync.WaitGroup
	for i, w := range rec.loads {
		wg.Go(func() {
			if err := w.run(filepath.Join(s.top(), w.name()), p.clock, stop); err != nil {
				errs[i] = fmt.Errorf("%s: %w", w.name(), err)
			}
		})
	}
	time.Sleep(d)
	close(stop)
	wg.Wait()
	rec.end = p.clock.now()
	if err := errors.Join(errs...); err != nil {
		log := s.log()
		s.kill()
		return fmt.Errorf("%w\n%s", err, log)
	}
	return s.down()
}

func (rec *recording) close() {
	rec.tape.close()
	os.RemoveAll(rec.dir)
}

// choose picks cuts: at random moments, just after acknowledgements, and some
// while unmounting.
func (rec *recording) choose(n int, rng *rand.Rand, ignoreFlushes bool) []cutAt {
	var cuts []cutAt
	for range n {
		p := rec.begin + rng.Uint64N(rec.end-rec.begin+1)
		switch k := rng.IntN(10); {
		case k < 5 && len(rec.acks) > 0:
			p = rec.acks[rng.IntN(len(rec.acks))] + uint64(rng.IntN(4))
		case k == 9:
			p = rec.end + rng.Uint64N(uint64(len(rec.tape.entries))-rec.end+1)
		}
		p = min(p, uint64(len(rec.tape.entries)))
		c := cutAt{p: int(p), at: p, fate: rng.IntN(len(fates)), seed: rng.Uint64()}
		c.durable = rec.tape.durable(c.p)
		if ignoreFlushes {
			c.durable = max(0, c.p-1-rng.IntN(400))
		}
		cuts = append(cuts, c)
	}
	sort.Slice(cuts, func(i, j int) bool { return cuts[i].durable < cuts[j].durable })
	return cuts
}

// failure is a cut that was not survived.
type failure struct {
	cut      cutAt
	problems []string
}

func (f failure) String() string {
	return f.cut.String() + "\n  " + strings.ReplaceAll(strings.Join(f.problems, "\n"), "\n", "\n  ")
}

// states makes the disk of each cut, which are in order, and has it visited.
func (rec *recording) states(cuts []cutAt, visit func(i int, disk string) error) error {
	st, err := os.Stat(rec.path("base"))
	if err != nil {
		return err
	}
	m, err := newImage(st.Size())
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.load(rec.path("base")); err != nil {
		return err
	}
	done := 0
	for i, c := range cuts {
		for ; done < c.durable; done++ {
			e := &rec.tape.entries[done]
			e.put(m.mem, 0, e.n)
			m.touch(e.off, e.n)
		}
		disk := rec.path("state")
		if err := m.write(disk, rec.tape, c, rec.fstype); err != nil {
			return err
		}
		if err := visit(i, disk); err != nil {
			return err
		}
	}
	return nil
}

// play tries cuts, and returns those that were not survived.
func (rec *recording) play(cuts []cutAt) (failed []failure, err error) {
	keep := os.Getenv("PLYFS_KEEP") != ""
	err = rec.states(cuts, func(i int, disk string) error {
		if keep {
			if err := do("cp", "--sparse=always", disk, rec.path("before")); err != nil {
				return err
			}
		}
		if problems := rec.examine(disk, cuts[i]); len(problems) > 0 {
			failed = append(failed, failure{cuts[i], problems})
			if keep && len(failed) <= 3 {
				os.Rename(rec.path("before"), rec.path(fmt.Sprint("failed-", i)))
			}
		}
		return nil
	})
	return failed, err
}

// examine mounts a state, verifies it, and does so again after the volume was
// unmounted, or after its daemon was killed.
func (rec *recording) examine(disk string, c cutAt) (problems []string) {
	for round := range 2 {
		s, err := rec.up(disk, false)
		if err != nil {
			return append(problems, fmt.Sprintf("mount %d: %v", round+1, err))
		}
		watchdog := time.AfterFunc(4*patience, s.hang)
		for _, w := range rec.loads {
			for i, p := range w.verify(filepath.Join(s.top(), w.name()), c.at, rec.plyfs) {
				if i == 5 {
					problems = append(problems, w.name()+": and so on")
					break
				}
				problems = append(problems, fmt.Sprintf("%s, mount %d: %s", w.name(), round+1, p))
			}
		}
		if err := usable(s.top()); err != nil {
			problems = append(problems, fmt.Sprintf("mount %d: %v", round+1, err))
		}
		if len(problems) > 0 {
			problems = append(problems, "daemon: "+s.log())
		}
		if c.seed%3 == 0 && round == 0 {
			s.kill()
		} else if err := s.down(); err != nil {
			problems = append(problems, fmt.Sprintf("unmount %d: %v", round+1, err))
		}
		if !watchdog.Stop() {
			problems = append(problems, "hung")
		}
		if len(problems) > 0 {
			return problems
		}
	}
	return nil
}

// usable writes, renames and removes: after a crash no name may be stuck.
func usable(dir string) error {
	a, b := filepath.Join(dir, "probe"), filepath.Join(dir, "probe.new")
	want := make([]byte, 10_000)
	fill(want, 1)
	f, err := os.Create(b)
	if err != nil {
		return err
	}
	_, err = f.Write(want)
	err = errors.Join(err, f.Sync(), f.Close(), os.Rename(b, a))
	got, err2 := os.ReadFile(a)
	if err = errors.Join(err, err2, os.Remove(a)); err != nil {
		return err
	}
	if string(got) != string(want) {
		return errors.New("what is written after the crash does not read back")
	}
	return nil
}

// trial records workloads again and again until n cuts were tried, and returns
// how many of them failed. Each recording gets at most perTape of them.
func trial(t *testing.T, tg target, n, perTape int, d time.Duration, ignoreFlushes bool, loads func(target) []workload) (failed int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(env.seed, hash(t.Name())))
	start, tried, entries := time.Now(), 0, 0
	for tried < n {
		rec, err := record(tg, diskSize, d, loads(tg)...)
		if err != nil {
			t.Fatalf("PLYFS_SEED=%d: recording: %v", env.seed, err)
		}
		entries += len(rec.tape.entries)
		cuts := rec.choose(min(perTape, n-tried), rng, ignoreFlushes)
		bad, err := rec.play(cuts)
		if err != nil {
			t.Fatalf("PLYFS_SEED=%d: %v", env.seed, err)
		}
		tried += len(cuts)
		for i, f := range bad {
			if failed+i < 3 || !ignoreFlushes && failed+i < 10 {
				t.Logf("%s: %v", tg, f)
			}
		}
		failed += len(bad)
		if len(bad) == 0 || os.Getenv("PLYFS_KEEP") == "" {
			rec.close()
		}
	}
	t.Logf("PLYFS_SEED=%d %s: %d of %d cuts failed; %d disk requests recorded, %.0f s", env.seed, tg, failed, tried, entries, time.Since(start).Seconds())
	return failed
}

func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(s) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// fill writes bytes that belong to a seed.
func fill(b []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 + 0x1234567
	for len(b) >= 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b, x*0x2545f4914f6cdd1d)
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(x >> (8 * i))
	}
}

// aligned is a buffer for O_DIRECT.
func aligned(n int) []byte {
	b, err := unix.Mmap(-1, 0, (n+4095)&^4095, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	return b[:n:n]
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
