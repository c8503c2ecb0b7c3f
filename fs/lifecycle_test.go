package fs

import (
	"bytes"
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

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clean reports what the superblock says.
func (m *testMount) clean() bool {
	m.t.Helper()
	d, err := backing.OpenDir(filepath.Join(m.back, ".plyfs", "journal"))
	must(m.t, err)
	defer d.Close()
	c, err := testCipher(m.blockSize)
	must(m.t, err)
	super, err := journal.OpenSuper(d, c.Authenticator("journal"))
	must(m.t, err)
	return super.Clean()
}

func TestUmountLeavesACleanVolume(t *testing.T) {
	m := newMount(t, 4096)
	must(t, os.WriteFile(m.path("file"), []byte("content"), 0o600))
	if m.clean() {
		t.Error("the volume counts as clean while it is mounted")
	}
	m.unmount()
	if !m.clean() {
		t.Error("the volume is unclean after umount")
	}
	m.mount()
	if b, err := os.ReadFile(m.path("file")); string(b) != "content" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestBusyMountIsNotUnmounted(t *testing.T) {
	m := newMount(t, 4096)
	f, err := os.Create(m.path("file"))
	must(t, err)
	if err := unix.Unmount(m.dir, 0); err != unix.EBUSY {
		t.Errorf("got %v, want EBUSY", err)
	}
	must(t, f.Close())
}

func TestKilledServer(t *testing.T) {
	m := newMount(t, 4096)
	must(t, os.Mkdir(m.path("dir"), 0o700))
	must(t, os.WriteFile(m.path("dir/file"), bytes.Repeat([]byte("content"), 50_000), 0o600))
	time.Sleep(200 * time.Millisecond) // what is written stays for so long in this process alone
	must(t, m.server.Process.Kill())
	m.server.Wait()
	m.server = nil
	must(t, unix.Unmount(m.dir, unix.MNT_DETACH))
	if m.clean() {
		t.Error("the volume counts as clean after a kill")
	}
	m.mount()
	b, err := os.ReadFile(m.path("dir/file"))
	if err != nil || !bytes.Equal(b, bytes.Repeat([]byte("content"), 50_000)) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	m.remount()
	if !mountedClean(m) {
		t.Error("the volume is unclean after two unmounts")
	}
}

// mountedClean unmounts m, since a mounted volume is never clean.
func mountedClean(m *testMount) bool {
	m.unmount()
	defer m.mount()
	return m.clean()
}

func TestWhatTheMountTableShows(t *testing.T) {
	m := newMount(t, 4096)
	b, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) > 3 && f[1] == m.dir {
			if f[0] != m.back || f[2] != "fuse.plyfs" {
				t.Errorf("got source %s and type %s, want %s and fuse.plyfs", f[0], f[2], m.back)
			}
			return
		}
	}
	t.Error("the mount is not in the table")
}

func TestReadOnlyMount(t *testing.T) {
	m := newMount(t, 4096)
	must(t, os.WriteFile(m.path("file"), []byte("content"), 0o600))
	m.unmount()
	m.mode = "ro"
	m.mount()
	if b, err := os.ReadFile(m.path("file")); string(b) != "content" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if err := os.WriteFile(m.path("new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("create: got %v, want EROFS", err)
	}
	m.unmount()
	if !m.clean() {
		t.Error("a read-only mount left the volume unclean")
	}
}

func TestReadAheadIsRaised(t *testing.T) {
	m := newMount(t, 4096)
	var st unix.Stat_t
	must(t, unix.Stat(m.dir, &st))
	b, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev)))
	must(t, err)
	if got, want := strings.TrimSpace(string(b)), fmt.Sprint(readAhead); got != want {
		t.Errorf("read_ahead_kb is %s, want %s", got, want)
	}
}

// TestDirectWritesAreSeenByBufferedReads lets direct writers and buffered
// readers share a file. What a write put there is seen as soon as it returned.
func TestDirectWritesAreSeenByBufferedReads(t *testing.T) {
	m := newMount(t, 4096)
	const blocks, size = 16, 4096
	must(t, os.WriteFile(m.path("file"), make([]byte, blocks*size), 0o600))
	buffered, err := unix.Open(m.path("file"), unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(buffered)
	direct, err := unix.Open(m.path("file"), unix.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer unix.Close(direct)

	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { // pulls pages into the cache all the time
			b := make([]byte, blocks*size)
			for !stop.Load() {
				unix.Pread(buffered, b, 0)
			}
		})
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	out, in := alignedBuffer(size), make([]byte, size)
	for i := range 1500 {
		for j := range out {
			out[j] = byte(i)
		}
		off := r.Int64N(blocks) * size
		if n, err := unix.Pwrite(direct, out, off); n != size || err != nil {
			t.Fatalf("pwrite: %d, %v", n, err)
		}
		if n, err := unix.Pread(buffered, in, off); n != size || err != nil {
			t.Fatalf("pread: %d, %v", n, err)
		}
		if !bytes.Equal(in, out) {
			t.Fatalf("write %d at %d: read back %d", i, off, in[0])
		}
	}
	stop.Store(true)
	wg.Wait()
}

func TestManyEntries(t *testing.T) {
	m := newMount(t, 4096)
	const count = 3000
	want := map[string]bool{}
	for i := range count {
		name := fmt.Sprintf("%d", i)
		if i%50 == 0 {
			name += strings.Repeat("x", 240)
		}
		want[name] = true
		must(t, unix.Mknod(m.path(name), unix.S_IFIFO|0o600, 0))
	}
	for range 2 {
		entries, err := os.ReadDir(m.dir)
		must(t, err)
		got := map[string]bool{}
		for _, e := range entries {
			if got[e.Name()] || !want[e.Name()] {
				t.Fatalf("%q is listed twice or was never made", e.Name())
			}
			got[e.Name()] = true
		}
		if len(got) != count {
			t.Fatalf("%d entries listed, want %d", len(got), count)
		}
		m.remount()
	}
	for name := range want {
		must(t, unix.Unlink(m.path(name)))
	}
	if entries, err := os.ReadDir(m.dir); len(entries) != 0 || err != nil {
		t.Errorf("%d entries are left, %v", len(entries), err)
	}
}

// TestLongestPath goes down to PATH_MAX, by relative steps.
func TestLongestPath(t *testing.T) {
	m := newMount(t, 4096)
	fd, err := unix.Open(m.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	name := strings.Repeat("d", 250)
	const depth = 15
	for range depth {
		must(t, unix.Mkdirat(fd, name, 0o700))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
	must(t, err)
	unix.Write(f, []byte("deep"))
	unix.Close(f)
	unix.Close(fd)
	m.remount()
	path := m.path(strings.Repeat(name+"/", depth) + "file")
	if b, err := os.ReadFile(path); string(b) != "deep" || err != nil {
		t.Errorf("a path of %d bytes: read %q, %v", len(path), b, err)
	}
	must(t, unix.Rename(m.path(name), m.path("moved")))
	path = m.path("moved/" + strings.Repeat(name+"/", depth-1) + "file")
	if b, err := os.ReadFile(path); string(b) != "deep" || err != nil {
		t.Errorf("below a renamed ancestor: read %q, %v", b, err)
	}
	if _, err := os.Stat(m.path(strings.Repeat("n", 256))); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a name of 256 bytes: got %v, want ENAMETOOLONG", err)
	}
}
