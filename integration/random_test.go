package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blockSizes are those that randomised tests run at.
var blockSizes = []int{4096, 16384, 65536}

// seed is PLYFS_SEED or a new one, printed in any case.
func seed(t testing.TB) uint64 {
	s := uint64(time.Now().UnixNano())
	if e := os.Getenv("PLYFS_SEED"); e != "" {
		n, err := strconv.ParseUint(e, 10, 64)
		check(t, err)
		s = n
	}
	t.Logf("PLYFS_SEED=%d repeats this", s)
	return s
}

// steps is PLYFS_STEPS or the default given.
func steps(n int) int {
	if e, err := strconv.Atoi(os.Getenv("PLYFS_STEPS")); err == nil {
		return e
	}
	return n
}

// randomised runs f on a plain directory and on a volume of each block size.
func randomised(t *testing.T, f func(t *testing.T, p place, seed uint64)) {
	s := seed(t)
	if os.Getenv("PLYFS_ONLY") != "mount" {
		t.Run("plain", func(t *testing.T) {
			dir := filepath.Join(env.scratch, "random")
			check(t, os.Mkdir(dir, 0o755))
			defer os.RemoveAll(dir)
			f(t, place{dir: dir}, s)
		})
	}
	if os.Getenv("PLYFS_ONLY") == "plain" {
		return
	}
	for _, b := range blockSizes {
		t.Run(fmt.Sprint("block size ", b), func(t *testing.T) {
			v := newMounted(t, "--block-size", fmt.Sprint(b))
			defer v.watch(t, 5*time.Minute)()
			f(t, place{dir: v.mnt, vol: v}, s)
		})
	}
}

// TestRandomTree makes thousands of random calls both below the directory
// under test and below a plain one, its model, and compares every answer; now
// and then the volume is remounted and the whole trees are compared.
func TestRandomTree(t *testing.T) {
	randomised(t, func(t *testing.T, p place, seed uint64) {
		model := filepath.Join(env.scratch, fmt.Sprintf("model%d", volumeCount.Add(1)))
		check(t, os.Mkdir(model, 0o755))
		defer os.RemoveAll(model)
		w := &walk{t: t, p: p, rng: rand.New(rand.NewPCG(seed, 1)), roots: [2]string{p.dir, model}}
		defer w.closeAll()
		n := steps(3000)
		for i := range n {
			w.step(i)
			if i%500 == 499 || i == n-1 {
				w.closeAll()
				p.remount(t)
				w.compareTrees()
			}
			if t.Failed() {
				t.Fatalf("the last steps, of which the last differs:\n%s", strings.Join(w.last, "\n"))
			}
		}
	})
}

// walk is one run: two trees that ought to stay alike.
type walk struct {
	t     *testing.T
	p     place
	rng   *rand.Rand
	roots [2]string // under test, model
	open  []handle
	last  []string // the latest steps
}

// handle is one file opened in both trees.
type handle struct {
	fd     [2]int
	direct bool
}

// do makes one call in both trees and compares what it says. f gets the root
// of the tree and which of the two it is.
func (w *walk) do(what string, f func(root string, i int) (string, error)) bool {
	w.last = append(w.last, what)
	if len(w.last) > 25 {
		w.last = w.last[1:]
	}
	var res [2]string
	for i, root := range w.roots {
		s, err := f(root, i)
		var e unix.Errno
		switch {
		case errors.As(err, &e):
			s += " " + unix.ErrnoName(e)
		case err != nil:
			s += " " + err.Error()
		default:
			s += " ok"
		}
		res[i] = s
	}
	if res[0] != res[1] {
		w.t.Errorf("%s: got %s, the model says %s", what, tail(res[0], 300), tail(res[1], 300))
	}
	return strings.HasSuffix(res[1], " ok")
}

// name picks one of few paths, so that calls meet the same files.
func (w *walk) name() string {
	long := strings.Repeat("long", 60)
	base := []string{"a", "b", "c", "d", "e", "f", long, long + "2", strings.Repeat("m", 160)}[w.rng.IntN(9)]
	switch w.rng.IntN(5) {
	case 0:
		return "dir1/" + base
	case 1:
		return "dir2/" + base
	case 2:
		return "dir1/" + long + "/" + base
	}
	return base
}

// place picks an offset or a length, often at a border.
func (w *walk) offset() int64 {
	switch w.rng.IntN(8) {
	case 0:
		return w.rng.Int64N(20 << 20)
	case 1, 2:
		return edges[w.rng.IntN(len(edges))]
	case 3:
		return w.rng.Int64N(64) * 4096
	case 4:
		return w.rng.Int64N(2 << 20)
	}
	return w.rng.Int64N(200_000)
}

func (w *walk) step(i int) {
	rng := w.rng
	if rng.IntN(10) < 6 && len(w.open) > 0 {
		w.fileStep(i, rng.IntN(len(w.open)))
		return
	}
	a, b := w.name(), w.name()
	switch k := rng.IntN(19); k {
	case 0, 1, 2, 3:
		w.openFile(a)
	case 4:
		if len(w.open) > 0 {
			w.closeOne(rng.IntN(len(w.open)))
		}
	case 5:
		w.do("mkdir "+a, func(r string, _ int) (string, error) { return "", unix.Mkdir(r+"/"+a, 0o750) })
		for _, d := range []string{"dir1", "dir2"} {
			w.do("mkdir "+d, func(r string, _ int) (string, error) { return "", unix.Mkdir(r+"/"+d, 0o755) })
		}
	case 6:
		w.do("unlink "+a, func(r string, _ int) (string, error) { return "", unix.Unlink(r + "/" + a) })
	case 7:
		w.do("rmdir "+a, func(r string, _ int) (string, error) { return "", unix.Rmdir(r + "/" + a) })
	case 8, 9, 10:
		flags := uint(0)
		if k > 8 {
			flags = []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[rng.IntN(3)]
		}
		w.do(fmt.Sprintf("rename %s %s flags %d", a, b, flags), func(r string, _ int) (string, error) {
			return "", rename2(r+"/"+a, r+"/"+b, flags)
		})
	case 11:
		w.do("link "+a+" "+b, func(r string, _ int) (string, error) { return "", unix.Link(r+"/"+a, r+"/"+b) })
	case 12:
		to := strings.Repeat("t", rng.IntN(1500)+1)
		w.do(fmt.Sprint("symlink of ", len(to), " at ", a), func(r string, _ int) (string, error) { return "", unix.Symlink(to, r+"/"+a) })
	case 13:
		m := uint32(rng.IntN(0o1000))
		w.do(fmt.Sprintf("chmod %o %s", m, a), func(r string, _ int) (string, error) {
			return "", unix.Fchmodat(unix.AT_FDCWD, r+"/"+a, m, 0)
		})
	case 14:
		u, g := rng.IntN(3), rng.IntN(3)
		w.do(fmt.Sprintf("chown %d:%d %s", u, g, a), func(r string, _ int) (string, error) { return "", unix.Lchown(r+"/"+a, u, g) })
	case 15:
		v := pattern(rng.IntN(200), uint64(i))
		n := fmt.Sprint("user.x", rng.IntN(3))
		w.do(fmt.Sprintf("setxattr %s %s of %d", a, n, len(v)), func(r string, _ int) (string, error) {
			return "", unix.Lsetxattr(r+"/"+a, n, v, 0)
		})
	case 16:
		n := fmt.Sprint("user.x", rng.IntN(3))
		w.do("removexattr "+a, func(r string, _ int) (string, error) { return "", unix.Lremovexattr(r+"/"+a, n) })
	case 17:
		size := w.offset()
		w.do(fmt.Sprint("truncate ", a, " ", size), func(r string, _ int) (string, error) { return "", unix.Truncate(r+"/"+a, size) })
	case 18:
		w.do("stat "+a, func(r string, _ int) (string, error) {
			var st unix.Stat_t
			err := unix.Lstat(r+"/"+a, &st)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				st.Size = 0
			}
			return fmt.Sprint(st.Mode, st.Size, st.Nlink, st.Uid, st.Gid), err
		})
	}
}

func (w *walk) openFile(name string) {
	flags := unix.O_RDWR | []int{0, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT | unix.O_EXCL, unix.O_CREAT | unix.O_TRUNC, unix.O_DSYNC | unix.O_CREAT}[w.rng.IntN(6)]
	h := handle{direct: w.rng.IntN(5) == 0}
	if len(w.open) >= 12 {
		w.closeOne(w.rng.IntN(len(w.open)))
	}
	ok := w.do(fmt.Sprintf("open %s flags %#x direct %v", name, flags, h.direct), func(r string, i int) (s string, err error) {
		f := flags
		if h.direct {
			f |= unix.O_DIRECT
		}
		// A symlink here points nowhere; do not create its target.
		h.fd[i], err = unix.Open(r+"/"+name, f|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
		return "", err
	})
	if ok && !w.t.Failed() {
		w.open = append(w.open, h)
	}
}

func (w *walk) closeOne(k int) {
	h := w.open[k]
	w.do("close", func(_ string, i int) (string, error) { return "", unix.Close(h.fd[i]) })
	w.open = slices.Delete(w.open, k, k+1)
}

func (w *walk) closeAll() {
	for len(w.open) > 0 {
		w.closeOne(0)
	}
}

// fileStep makes one call on an open file, which may have no name any more.
func (w *walk) fileStep(i, k int) {
	h, rng := w.open[k], w.rng
	off, n := w.offset(), rng.IntN(150_000)+1
	if rng.IntN(3) == 0 {
		n = rng.IntN(9000) + 1
	}
	if h.direct {
		off, n = off&^4095, (n+4095)&^4095
	}
	at := fmt.Sprintf("fd %d: %%s %d+%d", h.fd[0], off, n)
	size := func() int64 { return fstat(w.t, h.fd[1]).Size }
	switch op := rng.IntN(16); op {
	case 0, 1, 2, 3:
		b := aligned(n)
		copy(b, pattern(n, uint64(i)))
		flags := 0
		if op == 3 {
			flags = unix.RWF_DSYNC
		}
		w.do(fmt.Sprintf(at, "write"), func(_ string, i int) (string, error) {
			n, err := unix.Pwritev2(h.fd[i], [][]byte{b}, off, flags)
			return fmt.Sprint(n), err
		})
	case 4, 5, 6, 7:
		w.do(fmt.Sprintf(at, "read"), func(_ string, i int) (string, error) {
			b := aligned(n)
			n, err := unix.Pread(h.fd[i], b, off)
			return fmt.Sprint(n, " ", sum(b[:max(n, 0)])), err
		})
	case 8:
		w.do(fmt.Sprintf(at, "truncate"), func(_ string, i int) (string, error) { return "", unix.Ftruncate(h.fd[i], off) })
	case 9, 10:
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[rng.IntN(5)]
		w.do(fmt.Sprintf(at, fmt.Sprint("fallocate mode ", mode)), func(_ string, i int) (string, error) {
			return "", unix.Fallocate(h.fd[i], mode, off, int64(n))
		})
	case 11, 12:
		end := size()
		if off >= end || h.direct {
			return
		}
		n = int(min(int64(n), end-off))
		start := off &^ 4095
		write := op == 11
		w.do(fmt.Sprintf(at, fmt.Sprintf("mmap, write %v", write)), func(_ string, k int) (string, error) {
			m, err := unix.Mmap(h.fd[k], start, int(off-start)+n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return "", err
			}
			s := fmt.Sprint(sum(m[off-start:]))
			if write {
				copy(m[off-start:], pattern(n, uint64(i)))
				if i%2 == 0 {
					err = unix.Msync(m, unix.MS_SYNC)
				}
			}
			return s, errors.Join(err, unix.Munmap(m))
		})
	case 13:
		w.do(fmt.Sprintf(at, "fsync"), func(_ string, i int) (string, error) {
			if n%2 == 0 {
				return "", unix.Fdatasync(h.fd[i])
			}
			return "", unix.Fsync(h.fd[i])
		})
	case 14:
		w.do(fmt.Sprintf(at, "fstat"), func(_ string, i int) (string, error) {
			st := fstat(w.t, h.fd[i])
			return fmt.Sprint(st.Mode, st.Size, st.Nlink), nil
		})
	case 15:
		to := rng.IntN(len(w.open))
		if to == k || h.direct || w.open[to].direct {
			return
		}
		w.do(fmt.Sprintf(at, "copy_file_range"), func(_ string, i int) (string, error) {
			from, dst := off, off/2
			n, err := unix.CopyFileRange(h.fd[i], &from, w.open[to].fd[i], &dst, n, 0)
			return fmt.Sprint(n), err
		})
	}
}

// sum is a checksum (FNV-1a).
func sum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// compareTrees compares all that a tree consists of.
func (w *walk) compareTrees() {
	var lists [2][]string
	inodes := map[uint64]uint64{}
	for i, root := range w.roots {
		filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				w.t.Errorf("walking: %v", err)
				return nil
			}
			lists[i] = append(lists[i], strings.TrimPrefix(path, root))
			return nil
		})
		slices.Sort(lists[i])
	}
	if !slices.Equal(lists[0], lists[1]) {
		w.t.Errorf("names: got %q, the model has %q", lists[0], lists[1])
		return
	}
	for _, rel := range lists[0] {
		var st [2]unix.Stat_t
		var desc [2]string
		for i, root := range w.roots {
			st[i] = stat(w.t, root+rel)
			desc[i] = w.describe(root+rel, st[i])
		}
		if desc[0] != desc[1] {
			w.t.Errorf("%q: got %s, the model has %s", rel, desc[0], desc[1])
		}
		if other, ok := inodes[st[1].Ino]; ok && other != st[0].Ino {
			w.t.Errorf("%q: inode %d, want the hard link's %d", rel, st[0].Ino, other)
		}
		inodes[st[1].Ino] = st[0].Ino
	}
}

func (w *walk) describe(path string, st unix.Stat_t) string {
	s := fmt.Sprintf("mode %o, owner %d:%d, nlink %d", st.Mode, st.Uid, st.Gid, st.Nlink)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(path)
		s += fmt.Sprintf(", size %d, sum %x of %d, %v", st.Size, sum(b), len(b), err)
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return s + fmt.Sprintf(", to %s, size %d, %v", to, st.Size, err)
	}
	if path == w.roots[0] || path == w.roots[1] {
		return ""
	}
	for _, n := range xattrs(w.t, path) {
		v, err := getxattr(w.t, path, n)
		s += fmt.Sprintf(", %s=%x %v", n, v, err)
	}
	return s
}
