package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Copies of the ciphertext directory, as a backup host without keys makes them.

// copyOf is a volume at another place, under the same key stores.
func (v *volume) copyOf(t testing.TB, cipher string) *volume {
	t.Helper()
	c := newVolume(t)
	c.keys, c.cipher, c.opts = v.keys, cipher, v.opts
	t.Cleanup(func() { c.close(t) })
	return c
}

// TestBackupFrozen copies the ciphertext with rsync while MariaDB is under load.
// The copy is a clean volume on which the server starts as after a crash.
func TestBackupFrozen(t *testing.T) {
	v := newMounted(t)
	defer v.watch(t, 5*time.Minute)()
	m := installMariaDB(t, v.mnt)
	defer m.kill()
	check(t, m.start())
	m.prepare(t)
	m.sql(t, "CREATE TABLE sb.marks (id INT PRIMARY KEY); INSERT INTO sb.marks VALUES (1)")
	load := m.sysbench("--time=0", "run")
	check(t, load.Start())
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			load.Process.Kill()
			load.Wait()
		}
	}
	defer stop()
	copied := filepath.Join(v.root, "copy")
	mustPlyfs(t, "freeze", v.mnt, "--", "rsync", "-aHAXS", "--exclude=/.plyfs/journal/segment-*", v.cipher+"/", copied)
	m.sql(t, "INSERT INTO sb.marks VALUES (2)")
	stop()
	m.stop(t)
	v.mustUnmount(t)

	c := v.copyOf(t, copied)
	c.mustMount(t)
	if s := c.log(); strings.Contains(s, "not unmounted cleanly") {
		t.Errorf("the copy is not that of a clean volume:\n%s", tail(s, 2000))
	}
	restored := &mariadb{data: filepath.Join(c.mnt, "mysql"), run: m.run}
	defer restored.kill()
	check(t, restored.start())
	if got := restored.sql(t, "SELECT id FROM sb.marks"); got != "1" {
		t.Errorf("marks in the copy: %q, want the one from before", got)
	}
	restored.checkTables(t)
	restored.stop(t)
}

// stamps is a writer whose every block says where it belongs and which write it
// is, so that a reader can tell right from wrong.
type stamps struct {
	dir    string
	synced atomic.Int64 // a sum of stamps: all writes up to it were synced
	stop   chan struct{}
	done   sync.WaitGroup
	files  []int
	err    error
}

const (
	stampFiles  = 3
	stampBlocks = 200
	stampMagic  = 0x706c7966732d6f6b
)

func startStamps(t testing.TB, dir string) *stamps {
	t.Helper()
	s := &stamps{dir: dir, stop: make(chan struct{})}
	for i := range stampFiles {
		fd := open(t, filepath.Join(dir, fmt.Sprint("stamps", i)), unix.O_RDWR|unix.O_CREAT, 0o600)
		for b := range stampBlocks {
			unix.Pwrite(fd, stamp(i, b, 0), int64(b)*4096)
		}
		check(t, unix.Fsync(fd))
		s.files = append(s.files, fd)
	}
	unix.Sync()
	s.done.Go(s.write)
	return s
}

func stamp(file, block int, n uint64) []byte {
	p := make([]byte, 4096)
	for at := 0; at < len(p); at += 32 {
		binary.LittleEndian.PutUint64(p[at:], stampMagic)
		binary.LittleEndian.PutUint64(p[at+8:], uint64(file))
		binary.LittleEndian.PutUint64(p[at+16:], uint64(block))
		binary.LittleEndian.PutUint64(p[at+24:], n)
	}
	return p
}

// write overwrites all blocks of all files in turn with the numbers 1, 2, …
// and syncs after each round, which is one number.
func (s *stamps) write() {
	for n := uint64(1); ; n++ {
		for i, fd := range s.files {
			for b := range stampBlocks {
				select {
				case <-s.stop:
					return
				default:
				}
				if _, err := unix.Pwrite(fd, stamp(i, b, n), int64(b)*4096); err != nil {
					s.err = err
					return
				}
			}
			if err := unix.Fdatasync(fd); err != nil {
				s.err = err
				return
			}
		}
		s.synced.Store(int64(n))
	}
}

func (s *stamps) end(t testing.TB) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	for _, fd := range s.files {
		unix.Close(fd)
	}
	check(t, s.err)
}

// judgeStamps reads all blocks in dir. None may be of another place, or older
// than least, unless old says that a file may be as short as it was at first.
// It returns how many could not be read.
func judgeStamps(t testing.TB, dir string, least uint64, old bool) (unreadable int) {
	t.Helper()
	for i := range stampFiles {
		path := filepath.Join(dir, fmt.Sprint("stamps", i))
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EIO) {
			unreadable += stampBlocks
			continue
		}
		check(t, err)
		p := make([]byte, 4096)
		for b := range stampBlocks {
			n, err := unix.Pread(fd, p, int64(b)*4096)
			if errors.Is(err, unix.EIO) {
				unreadable++
				continue
			}
			if err == nil && n == 0 && old {
				break
			}
			if err != nil || n != len(p) {
				t.Fatalf("%s, block %d: %d bytes, %v", path, b, n, err)
			}
			number := binary.LittleEndian.Uint64(p[24:])
			if string(p) != string(stamp(i, b, number)) {
				t.Fatalf("%s, block %d holds other bytes: %x", path, b, p[:64])
			}
			if number < least {
				t.Errorf("%s, block %d is of write %d, %d was synced before", path, b, number, least)
			}
		}
		unix.Close(fd)
	}
	return unreadable
}

// TestSnapshotUnfrozen takes snapshots of the backing filesystem under load,
// without a freeze: each is as good as after a power cut, nothing synced is missing.
func TestSnapshotUnfrozen(t *testing.T) {
	v := newVolume(t)
	pool := filepath.Join(v.root, "pool")
	image := filepath.Join(v.root, "pool.img")
	check(t, os.Mkdir(pool, 0o755))
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 2<<30))
	command(t, "mkfs.btrfs", "-q", image)
	command(t, "mount", "-o", "loop", image, pool)
	t.Cleanup(func() { v.close(t) }) // which unmounts all of it
	v.cipher = filepath.Join(pool, "cipher")
	command(t, "btrfs", "-q", "subvolume", "create", v.cipher)
	mustPlyfs(t, "init", "--keystore", v.keys, v.cipher)
	v.mustMount(t)
	s := startStamps(t, v.mnt)
	type shot struct {
		path  string
		least uint64
	}
	var shots []shot
	for i := range 4 {
		time.Sleep(200 * time.Millisecond) // of load, between snapshots
		shot := shot{filepath.Join(pool, fmt.Sprint("snapshot", i)), uint64(s.synced.Load())}
		command(t, "btrfs", "-q", "subvolume", "snapshot", v.cipher, shot.path)
		shots = append(shots, shot)
	}
	s.end(t)
	v.mustUnmount(t)
	for _, shot := range shots {
		c := v.copyOf(t, shot.path)
		c.mustMount(t)
		if n := judgeStamps(t, c.mnt, shot.least, false); n > 0 {
			t.Errorf("%s: %d blocks cannot be read", shot.path, n)
		}
		c.mustUnmount(t)
	}
}

// TestCopyUnfrozen copies file by file under load, which is of no one moment.
// Such a copy is refused, or has blocks that cannot be read, or files that are
// older than others; it never shows bytes that were not written there.
func TestCopyUnfrozen(t *testing.T) {
	v := newVolume(t)
	t.Cleanup(func() { v.close(t) })
	v.opts = []string{"-o", "journal-size=16M"} // so that blocks go home all the time
	v.mustMount(t)
	s := startStamps(t, v.mnt)
	var copies []string
	for i := range 4 {
		copied := filepath.Join(v.root, fmt.Sprint("copy", i))
		if out, err := exec.Command("rsync", "-aHAXS", v.cipher+"/", copied).CombinedOutput(); err != nil && !strings.Contains(string(out), "vanished") {
			t.Fatalf("rsync: %v\n%s", err, out)
		}
		copies = append(copies, copied)
	}
	s.end(t)
	v.mustUnmount(t)
	for _, copied := range copies {
		c := v.copyOf(t, copied)
		if err := c.mount(); err != nil {
			if !strings.Contains(err.Error(), "plyfs: hint: ") {
				t.Errorf("refused without a hint: %v", err)
			}
			t.Logf("refused: %v", err)
			continue
		}
		t.Logf("%d of %d blocks cannot be read", judgeStamps(t, c.mnt, 0, true), stampFiles*stampBlocks)
		c.mustUnmount(t)
	}
}
