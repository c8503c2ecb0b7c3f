package treecopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noise is n bytes that depend on seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// sourceTree makes a tree with all that can be in one.
func sourceTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(in("db/sub"), 0o755))
	must(t, os.Mkdir(in("empty"), 0o500))
	must(t, os.WriteFile(in("large"), noise(1, 3*chunk+12_345), 0o640))
	must(t, os.WriteFile(in("db/small"), []byte("small"), 0o600))
	must(t, os.WriteFile(in("db/nothing"), nil, 0o444))
	must(t, os.WriteFile(in("db/sub/sgid"), noise(2, 5000), 0o600))
	must(t, unix.Chmod(in("db/sub/sgid"), 0o2750))
	must(t, unix.Lchown(in("db/sub/sgid"), 12, 34))
	f, err := os.Create(in("sparse"))
	must(t, err)
	_, err = f.WriteAt(noise(3, 5000), 20<<20)
	must(t, err)
	must(t, f.Truncate(50<<20))
	must(t, f.Close())
	must(t, os.Link(in("db/small"), in("db/sub/second")))
	must(t, os.Link(in("db/small"), in("third")))
	must(t, os.Symlink("../nowhere", in("db/symlink")))
	must(t, unix.Lchown(in("db/symlink"), 1, 2))
	must(t, unix.Mkfifo(in("fifo"), 0o622))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Setxattr(in("large"), "user.note", []byte("kept"), 0))
	must(t, unix.Setxattr(in("db"), "trusted.note", []byte("as well"), 0))
	times := []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 1_000_000_000, Nsec: 987_654_321}}
	for _, name := range []string{"large", "db/small", "db/symlink", "fifo", "db/sub", "db", "empty", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
	return dir
}

// describe lists everything in a tree with all that a copy is to keep.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%s %o %d:%d %d.%09d", path[len(dir):], st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		names, err := xattr(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
		must(t, err)
		for _, name := range slices.Sorted(strings.SplitSeq(string(names), "\x00")) {
			if name != "" {
				value, err := xattr(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
				must(t, err)
				line += fmt.Sprintf(" %s=%q", name, value)
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			must(t, err)
			line += fmt.Sprintf(" links %d, %d bytes %x", st.Nlink, len(content), noiseSum(content))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			must(t, err)
			line += " -> " + to
		case unix.S_IFCHR:
			line += fmt.Sprintf(" device %x", st.Rdev)
		}
		list = append(list, line)
		return nil
	})
	must(t, err)
	return list
}

// noiseSum tells contents apart.
func noiseSum(b []byte) (sum uint64) {
	for _, c := range b {
		sum = sum*0x100000001b3 ^ uint64(c)
	}
	return sum
}

func wantSame(t *testing.T, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("copy has  %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("it lacks  %s", line)
		}
	}
}

// copyTree copies the directory from into the directory to.
func copyTree(ctx context.Context, from, to string, tell func(Progress)) (Result, error) {
	p, err := MakePlan(ctx, from)
	if err != nil {
		return Result{}, err
	}
	t, err := OpenTarget(to)
	if err != nil {
		return Result{}, err
	}
	defer t.Close()
	return Copy(ctx, p, t, tell)
}

func TestCopyKeepsEverything(t *testing.T) {
	from := sourceTree(t)
	want := describe(t, from)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(sock)
	must(t, unix.Bind(sock, &unix.SockaddrUnix{Name: filepath.Join(from, "db.sock")}))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, from, []unix.Timespec{{Sec: 1}, {Sec: 1_000_000_000, Nsec: 987_654_321}}, 0))
	to := filepath.Join(t.TempDir(), "target")
	r, err := copyTree(context.Background(), from, to, nil)
	must(t, err)
	wantSame(t, describe(t, to), want)
	if len(r.Others) != 0 {
		t.Errorf("others in a new target: %q", r.Others)
	}
	if r.Files != 10 || r.Present != 0 || !slices.Equal(r.Sockets, []string{"db.sock"}) {
		t.Errorf("result %+v, want 10 files and a socket", r)
	}
	if all := int64(3*chunk + 12_345 + 5 + 5000 + 50<<20); r.Bytes != all {
		t.Errorf("%d bytes counted, want %d", r.Bytes, all)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
	r, err = copyTree(context.Background(), from, to, nil)
	must(t, err)
	if r.Files != 0 || r.Present != 10 {
		t.Errorf("a second copy: %+v, want 10 present", r)
	}
	wantSame(t, describe(t, to), want)
}

// An interrupted copy goes on where it was, however often.
func TestCopyGoesOn(t *testing.T) {
	from := sourceTree(t)
	want := describe(t, from)
	to := filepath.Join(t.TempDir(), "target")
	stops := 0
	for seed := uint64(1); ; seed++ {
		ctx, stop := context.WithCancel(context.Background())
		calls := rand.New(rand.NewPCG(seed, 0)).IntN(6) + int(seed) // files in place count, too
		left := make(chan struct{}, 1000)
		r, err := copyTree(ctx, from, to, func(Progress) {
			if left <- struct{}{}; len(left) > calls {
				stop()
			}
		})
		stop()
		if err == nil {
			if r.Files+r.Present != 10 {
				t.Errorf("result %+v", r)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if stops++; stops > 100 {
			t.Fatal("it makes no progress")
		}
	}
	if stops == 0 {
		t.Error("it was never interrupted")
	}
	wantSame(t, describe(t, to), want)
}

// What an interrupted copy left is kept as far as it is right.
func TestRightPartIsKept(t *testing.T) {
	content := noise(7, 4*chunk+99)
	for name, left := range map[string][]byte{
		"nothing": nil, "a part": content[:2*chunk+5], "all": content,
		"wrong at the end": append(slices.Clone(content[:chunk]), noise(8, 2*chunk)...),
		"wrong":            noise(9, 5*chunk), "too long": append(slices.Clone(content), 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, work := filepath.Join(dir, "from"), filepath.Join(dir, "work")
			must(t, os.WriteFile(from, content, 0o600))
			must(t, os.WriteFile(work, left, 0o600))
			e := &entry{path: "from"}
			must(t, unix.Lstat(from, &e.st))
			c := &copier{plan: &Plan{}}
			must(t, c.copyContent(context.Background(), e, from, work))
			if got, err := os.ReadFile(work); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := c.bytes.Load(); n != int64(len(content)) {
				t.Errorf("%d bytes counted", n)
			}
		})
	}
}

func TestCopyOverwritesNothing(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"other content": func(p string) error { return os.WriteFile(p, []byte("other"), 0o600) },
		"a directory":   func(p string) error { return os.Mkdir(p, 0o700) },
		"other mode":    func(p string) error { return os.WriteFile(p, []byte("small"), 0o644) },
		"other owner": func(p string) error {
			times := []unix.Timespec{{Sec: 1}, {Sec: 1_000_000_000, Nsec: 987_654_321}}
			return errors.Join(os.WriteFile(p, []byte("small"), 0o600), os.Chown(p, 5, 6), unix.UtimesNanoAt(unix.AT_FDCWD, p, times, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := sourceTree(t), t.TempDir()
			must(t, os.Mkdir(filepath.Join(to, "db"), 0o700))
			must(t, spoil(filepath.Join(to, "db/small")))
			if _, err := copyTree(context.Background(), from, to, nil); !errors.Is(err, ErrDiffers) {
				t.Errorf("%v, want ErrDiffers", err)
			}
		})
	}
}

// A source that is written to meanwhile is told, and its copy not put into
// place.
func TestCopyOfMovingSource(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	must(t, os.Mkdir(from, 0o700))
	file := filepath.Join(from, "f")
	must(t, os.WriteFile(file, noise(1, 2*chunk), 0o600))
	to := filepath.Join(t.TempDir(), "to")
	_, err := copyTree(context.Background(), from, to, func(p Progress) {
		if p.Bytes < p.AllBytes {
			must(t, os.Chtimes(file, time.Now(), time.Now()))
		}
	})
	if !errors.Is(err, ErrChanged) {
		t.Errorf("%v, want ErrChanged", err)
	}
	if _, err := os.Stat(filepath.Join(to, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in its place: %v", err)
	}
	_, err = copyTree(context.Background(), from, to, nil)
	must(t, err)
}

// What does not read back is noticed.
func TestVerify(t *testing.T) {
	a, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer a.Close()
	b, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer b.Close()
	content := noise(4, 3*chunk)
	buffers := &copyBuffers{make([]byte, chunk), make([]byte, chunk)}
	for _, flip := range []int{-1, 0, chunk, 3*chunk - 1} {
		_, err := a.WriteAt(content, 0)
		must(t, err)
		bad := slices.Clone(content)
		if flip >= 0 {
			bad[flip] ^= 1
		}
		_, err = b.WriteAt(bad, 0)
		must(t, err)
		if err := verify(context.Background(), a, b, int64(len(content)), buffers); errors.Is(err, ErrVerify) != (flip >= 0) {
			t.Errorf("byte %d flipped: %v", flip, err)
		}
	}
}

func TestPlanRefusesUnfinishedImport(t *testing.T) {
	from := t.TempDir()
	must(t, os.Mkdir(filepath.Join(from, WorkDir), 0o700))
	if _, err := copyTree(context.Background(), from, t.TempDir(), nil); err == nil {
		t.Error("copied")
	}
}

// What an interrupted copy left of a file that is gone, or has another number
// now, does not stay, nor stop the next one.
func TestLeftoversGo(t *testing.T) {
	from := sourceTree(t)
	want := describe(t, from)
	to := filepath.Join(t.TempDir(), "target")
	work := filepath.Join(to, WorkDir)
	must(t, os.MkdirAll(work, 0o700))
	must(t, os.WriteFile(filepath.Join(work, "fe-1234567"), noise(1, 5000), 0o600))
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(from, "large"), &st))
	must(t, os.Symlink("/nowhere", filepath.Join(work, (&entry{st: st}).workName())))
	_, err := copyTree(context.Background(), from, to, nil)
	must(t, err)
	wantSame(t, describe(t, to), want)
}

// An ACL that new files get from the directory they are made in is not the
// source's.
func TestNoACLIsInherited(t *testing.T) {
	from := sourceTree(t)
	want := describe(t, from)
	to := t.TempDir()
	// Version 2; user:rwx, user 1234:rwx, group:r-x, mask:rwx, other:---.
	acl := []byte{2, 0, 0, 0,
		1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 0xd2, 4, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
		16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	must(t, unix.Setxattr(to, "system.posix_acl_default", acl, 0))
	_, err := copyTree(context.Background(), from, to, nil)
	must(t, err)
	wantSame(t, describe(t, to), want)
}

// A source that changes after a file was copied is told.
func TestCopyOfSourceThatChangesLater(t *testing.T) {
	for name, change := range map[string]func(from string) error{
		"content":    func(from string) error { return os.WriteFile(filepath.Join(from, "large"), []byte("new"), 0o640) },
		"a new name": func(from string) error { return os.WriteFile(filepath.Join(from, "db", "new"), nil, 0o600) },
		"an owner":   func(from string) error { return os.Chown(filepath.Join(from, "db", "nothing"), 3, 4) },
	} {
		t.Run(name, func(t *testing.T) {
			from := sourceTree(t)
			p, err := MakePlan(context.Background(), from)
			must(t, err)
			must(t, p.unchanged())
			must(t, change(from))
			if err := p.unchanged(); !errors.Is(err, ErrChanged) {
				t.Errorf("%v, want ErrChanged", err)
			}
		})
	}
}

// What the source does not have stays, and is told, a tree of it once.
func TestCopyTellsOfOthers(t *testing.T) {
	from, to := sourceTree(t), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(to, "db/old/sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(to, "db/old/file"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(to, "more"), nil, 0o600))
	r, err := copyTree(context.Background(), from, to, nil)
	must(t, err)
	if !slices.Equal(r.Others, []string{"db/old", "more"}) {
		t.Errorf("told of %q", r.Others)
	}
	if _, err := os.Stat(filepath.Join(to, "db/old/file")); err != nil {
		t.Error(err)
	}
}

// One that is written to while its copy is read back has changed: nothing is
// wrong with the disk.
func TestChangeBeforeVerifyIsNoFault(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	must(t, os.Mkdir(from, 0o700))
	file := filepath.Join(from, "f")
	must(t, os.WriteFile(file, noise(1, 2*chunk), 0o600))
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(file, past, past))
	to := t.TempDir()
	_, err := copyTree(context.Background(), from, to, func(p Progress) {
		if p.Bytes == p.AllBytes {
			must(t, os.WriteFile(file, noise(2, 2*chunk), 0o600))
		}
	})
	if !errors.Is(err, ErrChanged) || errors.Is(err, ErrVerify) {
		t.Errorf("%v, want ErrChanged", err)
	}
	if _, err := os.Lstat(filepath.Join(to, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in its place: %v", err)
	}
}

// A copy that was killed after it had given a file under way a mode that keeps
// out its owner goes on, for somebody who is not root as well.
func TestUserGoesOnWithReadOnlyFile(t *testing.T) {
	const uid = 1234
	d, err := os.Open(t.TempDir())
	must(t, err)
	defer d.Close()
	from, work := byFD(d)+"/from", byFD(d)+"/work"
	content := noise(7, 2*chunk+99)
	must(t, os.WriteFile(from, content, 0o444))
	must(t, os.WriteFile(work, content[:chunk+5], 0o444))
	must(t, errors.Join(d.Chown(uid, uid), os.Chown(from, uid, uid), os.Chown(work, uid, uid)))
	e := &entry{path: "from"}
	must(t, unix.Lstat(from, &e.st))
	c := &copier{plan: &Plan{}}
	asUser(t, uid, func() error { return c.copyContent(context.Background(), e, from, work) })
	if got, err := os.ReadFile(work); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// asUser calls f with the rights that a user has on files. f must not leave its
// goroutine.
func asUser(t *testing.T, uid int, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its rights
		err := unix.Setfsuid(uid)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}
