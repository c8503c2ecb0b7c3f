package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"golang.org/x/sys/unix"
)

// journalled says that the volume has its write-ahead journal. Without it the
// kill may hit between a block and its tag: the page or the file that was being
// written then answers EIO, and only that may happen to it.
const journalled = true

// torn says whether an error is the one that a missing journal explains.
func torn(t testing.TB, what string, err error) bool {
	if journalled || !errors.Is(err, unix.EIO) {
		return false
	}
	t.Logf("%s was being written and is lost, for want of a journal", what)
	return true
}

// TestKill ends the daemon by SIGKILL at random moments of a mixed workload.
// Each time the volume must mount again, what was synced and left alone must
// be whole, and every name must be usable.
func TestKill(t *testing.T) {
	for _, b := range blockSizes {
		t.Run(fmt.Sprint("block size ", b), func(t *testing.T) {
			v := newMounted(t, "--block-size", fmt.Sprint(b))
			rng := rand.New(rand.NewPCG(seed(t), uint64(b)))
			var idle []string
			for round := range steps(5) {
				idle = append(idle, v.plant(t, round, rng)...)
				w := &crashLoad{dir: filepath.Join(v.mnt, fmt.Sprint("load", round)), seed: rng.Uint64()}
				check(t, os.Mkdir(w.dir, 0o755))
				w.start()
				time.Sleep(time.Duration(50+rng.IntN(700)) * time.Millisecond)
				v.kill(t)
				w.stop()
				if err := v.mount(); err != nil {
					t.Fatalf("round %d, after kill -9: %v", round, err)
				}
				for i, path := range idle {
					wantContent(t, path, pattern(idleSize(i), uint64(i)))
				}
				w.verify(t)
				v.usable(t)
				if t.Failed() {
					t.Fatalf("round %d", round)
				}
			}
			v.remount(t)
			for i, path := range idle {
				wantContent(t, path, pattern(idleSize(i), uint64(i)))
			}
		})
	}
}

func idleSize(i int) int { return i*31_013%700_000 + i%5 }

// plant makes files that nobody touches again: each synced, or its file
// system's whole, and closed.
func (v *volume) plant(t testing.TB, round int, rng *rand.Rand) (paths []string) {
	t.Helper()
	const each = 6
	dir := filepath.Join(v.mnt, fmt.Sprint("idle", round))
	check(t, os.Mkdir(dir, 0o755))
	for k := range each {
		i := round*each + k
		path := filepath.Join(dir, strings.Repeat("n", rng.IntN(230)+1)+fmt.Sprint(i))
		fd := open(t, path, unix.O_CREAT|unix.O_RDWR, 0o644)
		b := pattern(idleSize(i), uint64(i))
		for off := 0; off < len(b); off += 50_000 {
			unix.Pwrite(fd, b[off:min(off+50_000, len(b))], int64(off))
		}
		check(t, unix.Fsync(fd))
		check(t, unix.Close(fd))
		paths = append(paths, path)
	}
	d := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	check(t, unix.Fsync(d))
	unix.Close(d)
	top := open(t, v.mnt, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	check(t, unix.Fsync(top))
	unix.Close(top)
	return paths
}

// usable walks the tree, reading what can be read, and creates, renames and
// removes: no name may be stuck.
func (v *volume) usable(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(v.mnt, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, err = d.Info()
		return err
	})
	if err != nil {
		t.Errorf("walking the tree after a crash: %v", err)
	}
	probe := filepath.Join(v.mnt, "probe")
	check(t, os.WriteFile(probe, []byte("x"), 0o644))
	check(t, os.Rename(probe, probe+"2"))
	wantContent(t, probe+"2", []byte("x"))
	check(t, os.Remove(probe+"2"))
}

// crashLoad is several writers that note what was acknowledged.
type crashLoad struct {
	dir   string
	seed  uint64
	ended atomic.Bool
	wg    sync.WaitGroup

	appended atomic.Int64             // records that fsync acknowledged
	pages    [crashPages]atomic.Int64 // last acknowledged version of each page
	renamed  atomic.Int64             // last version that was saved and synced
}

const (
	crashPages  = 40
	crashRecord = 300
	crashPage   = 4096
)

// start begins: an appender that syncs each record, an overwriter of whole
// pages by O_DIRECT and O_DSYNC, one that saves by rename, and noise.
func (w *crashLoad) start() {
	run := func(f func(i int) error) {
		w.wg.Go(func() {
			for i := 0; !w.ended.Load(); i++ {
				if f(i) != nil {
					return // the daemon is gone
				}
			}
		})
	}
	log, err := unix.Open(filepath.Join(w.dir, "log"), unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
	pages, err2 := unix.Open(filepath.Join(w.dir, "pages"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0o644)
	if err = errors.Join(err, err2); err != nil {
		panic(err)
	}
	run(func(i int) error {
		if _, err := unix.Write(log, record(i)); err != nil {
			return err
		}
		if err := unix.Fdatasync(log); err != nil {
			return err
		}
		w.appended.Store(int64(i + 1))
		return nil
	})
	buf := aligned(crashPage)
	rng := rand.New(rand.NewPCG(w.seed, 1))
	run(func(i int) error {
		k := rng.IntN(crashPages)
		copy(buf, page(k, i+1))
		if _, err := unix.Pwrite(pages, buf, int64(k)*crashPage); err != nil {
			return err
		}
		w.pages[k].Store(int64(i + 1))
		return nil
	})
	run(func(i int) error { return w.save(i + 1) })
	noise := rand.New(rand.NewPCG(w.seed, 2))
	run(func(i int) error { return w.noise(noise) })
	w.wg.Go(func() {
		for !w.ended.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		unix.Close(log)
		unix.Close(pages)
	})
}

func (w *crashLoad) stop() {
	w.ended.Store(true)
	w.wg.Wait()
}

// record is the i-th of the log, so long that records share blocks.
func record(i int) []byte { return pattern(crashRecord, uint64(i)+1e6) }

// page is version n of page k: its number at both ends and bytes between.
func page(k, n int) []byte {
	b := pattern(crashPage, uint64(k*1_000_003+n))
	binary.BigEndian.PutUint32(b, uint32(n))
	return b
}

// save writes a new version beside the file and renames it over it.
func (w *crashLoad) save(n int) error {
	tmp := filepath.Join(w.dir, "save.new")
	fd, err := unix.Open(tmp, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, saved(n))
	err = errors.Join(err, unix.Fsync(fd), unix.Close(fd))
	if err != nil {
		return err
	}
	if err := unix.Rename(tmp, filepath.Join(w.dir, "save")); err != nil {
		return err
	}
	d, err := unix.Open(w.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fsync(d), unix.Close(d))
	if err == nil {
		w.renamed.Store(int64(n))
	}
	return err
}

func saved(n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(n)), pattern(n*977%60_000, uint64(n))...)
}

// noise makes, grows, cuts, renames and removes files and directories.
func (w *crashLoad) noise(rng *rand.Rand) error {
	name := func() string {
		return filepath.Join(w.dir, fmt.Sprint("noise", rng.IntN(6), strings.Repeat("-", rng.IntN(2)*200)))
	}
	var err error
	switch rng.IntN(7) {
	case 0, 1:
		err = os.WriteFile(name(), pattern(rng.IntN(300_000), 1), 0o644)
	case 2:
		err = unix.Truncate(name(), rng.Int64N(400_000))
	case 3:
		err = unix.Rename(name(), name())
	case 4:
		err = unix.Unlink(name())
	case 5:
		err = unix.Mkdir(name()+"d", 0o755)
	case 6:
		err = unix.Rmdir(name() + "d")
	}
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EIO) {
		return err
	}
	return nil
}

// verify compares with what was acknowledged.
func (w *crashLoad) verify(t testing.TB) {
	t.Helper()
	acked := int(w.appended.Load())
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	lost := torn(t, "the log", err)
	if err != nil && !lost {
		t.Errorf("log with %d acknowledged records: %v", acked, err)
	}
	if !lost && len(b) < acked*crashRecord {
		t.Errorf("the log has %d bytes, %d records were acknowledged: %d", len(b), acked, acked*crashRecord)
	}
	for i := 0; i < acked && (i+1)*crashRecord <= len(b); i++ {
		if !bytes.Equal(b[i*crashRecord:(i+1)*crashRecord], record(i)) {
			t.Errorf("record %d of %d acknowledged ones differs", i, acked)
			break
		}
	}
	fd, err := unix.Open(filepath.Join(w.dir, "pages"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("pages: %v", err)
		return
	}
	defer unix.Close(fd)
	for k := range crashPages {
		want := int(w.pages[k].Load())
		if want == 0 {
			continue
		}
		b := make([]byte, crashPage)
		if n, err := unix.Pread(fd, b, int64(k)*crashPage); torn(t, fmt.Sprint("page ", k), err) {
			continue
		} else if n != crashPage {
			t.Errorf("page %d: %d bytes, %s", k, n, errName(err))
			continue
		}
		got := int(binary.BigEndian.Uint32(b))
		if got < want || !bytes.Equal(b, page(k, got)) {
			t.Errorf("page %d is version %d, as written: %v; %d was acknowledged", k, got, bytes.Equal(b, page(k, got)), want)
		}
	}
	if want := int(w.renamed.Load()); want > 0 {
		b, err := os.ReadFile(filepath.Join(w.dir, "save"))
		if err != nil || len(b) < 4 {
			t.Errorf("saved file: %d bytes, %v", len(b), err)
			return
		}
		got := int(binary.BigEndian.Uint32(b))
		if got < want || !bytes.Equal(b, saved(got)) {
			t.Errorf("saved file is version %d, whole: %v; %d was acknowledged", got, bytes.Equal(b, saved(got)), want)
		}
	}
	t.Logf("acknowledged before the kill: %d appends, %d saves", acked, w.renamed.Load())
}

// TestKillMariaDB kills the daemon under a server with load, then the server.
func TestKillMariaDB(t *testing.T) {
	v := newMounted(t, "--block-size", "16384")
	defer func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", tail(v.log(), 3000))
		}
	}()
	m := installMariaDB(t, v.mnt)
	t.Cleanup(m.kill)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	m.prepare(t)
	for round := range 2 {
		load := m.sysbench("--time=60", "run")
		p, err := process.Start(load)
		check(t, err)
		time.Sleep(time.Duration(1500+round*1100) * time.Millisecond)
		v.daemon.Signal(unix.SIGKILL)
		m.kill()
		p.Wait(startTimeout)
		v.kill(t)
		if err := v.mount(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		v.usable(t)
		if err := m.start(); err != nil {
			if !journalled {
				t.Logf("round %d: the volume mounts; the server, for want of a journal: %v", round, err)
				return
			}
			t.Fatalf("round %d: %v", round, err)
		}
		m.checkTables(t)
	}
	m.stop(t)
}
