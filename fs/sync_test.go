package fs

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// countedMount serves a volume from this process over a backing side that
// counts syncs and can fail. Nothing of it may be mapped.
func countedMount(t *testing.T) (dir string, fs *faultfs.FS) {
	t.Helper()
	back, dir := filepath.Join(t.TempDir(), "back"), t.TempDir()
	v := openTestVolume(t, back, func(d backing.Dir) backing.Dir {
		fs = faultfs.New(d)
		return fs.Root()
	})
	server, err := Mount(dir, v, Options{Source: back})
	must(t, err)
	readableHere(t, server)
	t.Cleanup(func() {
		fs.Clear()
		endOf(t, dir, server)
	})
	return dir, fs
}

// readableHere lets this process open files of a mount that it serves. Go's
// runtime polls what it opens, and would hold up the server while it waits for the
// answer; after WaitMount the kernel does not ask.
func readableHere(t *testing.T, server *Server) {
	t.Helper()
	must(t, server.fuse.WaitMount())
}

// TestWhatIsSynced counts the syncs of the backing side behind each call.
func TestWhatIsSynced(t *testing.T) {
	dir, fs := countedMount(t)
	file := filepath.Join(dir, "file")
	open := func(flags int) int {
		fd, err := unix.Open(file, flags|unix.O_RDWR|unix.O_CREAT, 0o600)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) }) // before the mount's
		return fd
	}
	write := func(fd int) error {
		_, err := unix.Pwrite(fd, alignedBuffer(4096), 0)
		return err
	}
	flagged := func(fd, flags int) error {
		_, err := unix.Pwritev2(fd, [][]byte{alignedBuffer(4096)}, 0, flags)
		return err
	}
	for _, c := range []struct {
		what  string
		flags int
		call  func(fd int) error
		want  bool
	}{
		{"a write", 0, write, false},
		{"a direct write", unix.O_DIRECT, write, false},
		{"an O_DSYNC write", unix.O_DSYNC, write, true},
		{"an O_SYNC write", unix.O_SYNC, write, true},
		{"a direct O_DSYNC write", unix.O_DIRECT | unix.O_DSYNC, write, true},
		{"a direct O_SYNC write", unix.O_DIRECT | unix.O_SYNC, write, true},
		{"a write with RWF_DSYNC", 0, func(fd int) error { return flagged(fd, unix.RWF_DSYNC) }, true},
		{"a direct write with RWF_DSYNC", unix.O_DIRECT, func(fd int) error { return flagged(fd, unix.RWF_DSYNC) }, true},
		{"a direct write with RWF_SYNC", unix.O_DIRECT, func(fd int) error { return flagged(fd, unix.RWF_SYNC) }, true},
		{"fsync", 0, unix.Fsync, true},
		{"fdatasync", 0, unix.Fdatasync, true},
		{"fsync after direct writes", unix.O_DIRECT, unix.Fsync, true},
	} {
		fd := open(c.flags)
		must(t, write(open(0))) // there is something to sync
		before := fs.Count(faultfs.Sync)
		if err := c.call(fd); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := fs.Count(faultfs.Sync) > before; got != c.want {
			t.Errorf("%s: synced %v, want %v", c.what, got, c.want)
		}
	}

	d, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(d)
	before := fs.Count(faultfs.DirSync)
	must(t, unix.Fsync(d))
	if fs.Count(faultfs.DirSync) == before {
		t.Error("fsync of a directory synced nothing")
	}
}

// TestErrorsOfTheBackingSideArrive lets the backing side fail.
func TestErrorsOfTheBackingSideArrive(t *testing.T) {
	dir, fs := countedMount(t)
	file := filepath.Join(dir, "file")
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CREAT, 0o600)
	must(t, err)
	defer unix.Close(fd)
	for _, c := range []struct {
		what string
		plan faultfs.Plan
		call func() error
	}{
		{"no space to write", faultfs.Plan{Kind: faultfs.Allocate, Err: unix.ENOSPC},
			func() error { _, err := unix.Pwrite(fd, make([]byte, 10_000), 0); return err }},
		{"no quota to create", faultfs.Plan{Kind: faultfs.Name, Err: unix.EDQUOT},
			func() error { return unix.Mkdir(filepath.Join(dir, "d"), 0o700) }},
		{"too many links", faultfs.Plan{Kind: faultfs.Name, Err: unix.EMLINK},
			func() error { return unix.Link(file, filepath.Join(dir, "l")) }},
		{"no descriptors", faultfs.Plan{Kind: faultfs.Open, Err: unix.EMFILE},
			func() error { return unix.Mkdir(filepath.Join(dir, "d"), 0o700) }},
	} {
		fs.Set(c.plan)
		err := c.call()
		fs.Clear()
		want := c.plan.Err
		if want == unix.EMFILE {
			want = unix.ENFILE
		}
		if err != want {
			t.Errorf("%s: got %v, want %v", c.what, err, want)
		}
		if err := c.call(); err != nil {
			t.Errorf("%s is over: got %v", c.what, err)
		}
		unix.Rmdir(filepath.Join(dir, "d"))
	}
}
