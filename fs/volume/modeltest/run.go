package modeltest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Config is a run. Steps and sizes bound its time.
type Config struct {
	Seed    uint64
	Steps   int
	Reach   int64          // writes begin below this offset, mostly
	Ways    bool           // use all Ways
	Reopen  func() Tree    // unmounts Subject and mounts it again; nil never
	Subject Tree           // under test
	Model   Tree           // the plain directory it must agree with
	Note    func(s string) // told each step, for a failing run; may be nil
}

// run is a run under way.
type run struct {
	Config
	t     *testing.T
	r     *rand.Rand
	step  int
	modes []uint32 // of fallocate
	paths []string // a pool: some exist, some do not
	open  []pair
	last  string
}

// pair is a file open in both trees.
type pair struct{ subject, model File }

const maxOpen = 4

// Run runs c and fails t at the first difference.
func Run(t *testing.T, c Config) {
	t.Helper()
	t.Logf("seed %d", c.Seed)
	r := &run{Config: c, t: t, r: rand.New(rand.NewPCG(c.Seed, 1))}
	r.findModes()
	r.makePaths()
	reopen := max(c.Steps/6, 1)
	for r.step = range c.Steps {
		r.one()
		if r.step%(max(c.Steps/12, 1)) == 0 {
			r.compare()
		}
		if c.Reopen != nil && r.step%reopen == reopen-1 {
			r.closeAll()
			r.Subject = c.Reopen()
			r.compare()
		}
	}
	r.closeAll()
	r.compare()
}

// findModes leaves out what the model's filesystem cannot do: a tmpfs has no way
// to zero a range.
func (r *run) findModes() {
	r.modes = []uint32{0, keepSize, keepSize | punchHole}
	f, err := r.Model.Create("probe", 0o600)
	if err == nil {
		err = f.Allocate(zeroRange, 0, 4096)
		if err == nil {
			r.modes = append(r.modes, zeroRange, zeroRange|keepSize)
		}
		if err == unix.EOPNOTSUPP {
			err = nil
		}
		err = errors.Join(err, f.Close(), r.Model.Unlink("probe"))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// makePaths makes a pool of paths, three directories deep, with names of all
// lengths.
func (r *run) makePaths() {
	names := []string{"a", "b", "näme", "with space", strings.Repeat("l", 159), strings.Repeat("m", 160), strings.Repeat("x", 255)}
	var dirs []string
	for _, d := range names[:4] {
		dirs = append(dirs, d)
		for _, s := range []string{"c", names[5]} {
			dirs = append(dirs, d+"/"+s)
		}
	}
	r.paths = slices.Clone(dirs)
	for _, d := range append(dirs, "") {
		for _, n := range names {
			r.paths = append(r.paths, strings.TrimPrefix(d+"/"+n, "/"))
		}
	}
}

func (r *run) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("seed %d, step %d, after %s: %s", r.Seed, r.step, r.last, fmt.Sprintf(format, args...))
}

func short(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		if len(s) > 20 {
			parts[i] = fmt.Sprintf("%s*%d", s[:1], len(s))
		}
	}
	return strings.Join(parts, "/")
}

// say names the operation that comes next.
func (r *run) say(format string, args ...any) {
	r.last = fmt.Sprintf(format, args...)
	if r.Note != nil {
		r.Note(fmt.Sprintf("%d: %s", r.step, r.last))
	}
}

// same fails unless both trees gave the same error, and returns whether that
// was none.
func (r *run) same(subject, model error) bool {
	r.t.Helper()
	if subject != model {
		r.fail("got error %v, want %v", subject, model)
	}
	return model == nil
}

// path picks a path, one that exists more often than not.
func (r *run) path() string {
	p := r.anyPath()
	for range 3 {
		if _, err := r.Model.Stat(p); err == nil {
			break
		}
		p = r.anyPath()
	}
	return p
}

// anyPath picks a path that leads through no symlink: following these is not
// the filesystem's business.
func (r *run) anyPath() string {
	for {
		p := r.paths[r.r.IntN(len(r.paths))]
		if !r.throughLink(p) {
			return p
		}
	}
}

func (r *run) throughLink(p string) bool {
	for i, c := range p {
		if c != '/' {
			continue
		}
		if st, err := r.Model.Stat(p[:i]); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return true
		}
	}
	return false
}

// offset picks an offset, often near a block or group boundary, rarely far
// out.
func (r *run) offset() int64 {
	switch r.r.IntN(10) {
	case 0:
		return 0
	case 1, 2, 3:
		return max(r.r.Int64N(r.Reach/4096+1)*4096+r.r.Int64N(3)-1, 0)
	case 4:
		if r.r.IntN(8) == 0 {
			return r.Reach * (1 + r.r.Int64N(8))
		}
	}
	return r.r.Int64N(r.Reach)
}

func (r *run) data() []byte {
	n := 1 + r.r.IntN(200)
	switch r.r.IntN(6) {
	case 0:
		n = 4096 * (1 + r.r.IntN(8))
	case 1:
		n = 1 + r.r.IntN(int(r.Reach/3))
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.r.Uint32()) | 1
	}
	return b
}

func (r *run) one() {
	switch k := r.r.IntN(100); {
	case k < 50:
		r.fileOp()
	case k < 58:
		p := r.anyPath()
		r.say("mkdir %s", short(p))
		r.same(r.Subject.Mkdir(p, 0o750), r.Model.Mkdir(p, 0o750))
	case k < 61:
		p := r.path()
		r.say("rmdir %s", short(p))
		r.same(r.Subject.Rmdir(p), r.Model.Rmdir(p))
	case k < 66:
		p := r.path()
		r.say("unlink %s", short(p))
		r.same(r.Subject.Unlink(p), r.Model.Unlink(p))
	case k < 70:
		p, q := r.path(), r.anyPath()
		r.say("link %s %s", short(p), short(q))
		r.same(r.Subject.Link(p, q), r.Model.Link(p, q))
	case k < 80:
		r.rename()
	case k < 83:
		p, target := r.anyPath(), strings.Repeat("t/", 1+r.r.IntN(40))
		if r.r.IntN(3) == 0 {
			target = strings.Repeat("u", 1+r.r.IntN(4095))
		}
		r.say("symlink of %d bytes %s", len(target), short(p))
		r.same(r.Subject.Symlink(target, p), r.Model.Symlink(target, p))
	case k < 84:
		p := r.anyPath()
		r.say("mkfifo %s", short(p))
		r.same(r.Subject.Mkfifo(p, 0o600), r.Model.Mkfifo(p, 0o600))
	case k < 88:
		r.attrOp()
	case k < 92:
		r.xattrOp()
	default:
		p, size := r.path(), r.offset()
		if st, err := r.Model.Stat(p); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		r.say("truncate %s to %d", short(p), size)
		r.same(r.Subject.Truncate(p, size), r.Model.Truncate(p, size))
	}
}

func (r *run) rename() {
	p, q := r.path(), r.anyPath()
	if strings.HasPrefix(q+"/", p+"/") || strings.HasPrefix(p+"/", q+"/") {
		return // the kernel's business
	}
	flags := uint(0)
	switch r.r.IntN(5) {
	case 0:
		flags = unix.RENAME_NOREPLACE
	case 1:
		flags = unix.RENAME_EXCHANGE
	}
	r.say("rename %s %s flags %d", short(p), short(q), flags)
	r.same(r.Subject.Rename(p, q, flags), r.Model.Rename(p, q, flags))
}

func (r *run) attrOp() {
	p := r.path()
	st, err := r.Model.Stat(p)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return
	}
	if r.r.IntN(2) == 0 {
		mode := uint32(0o600) | r.r.Uint32()&0o177
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			mode |= 0o700
		}
		r.say("chmod %s %o", short(p), mode)
		r.same(r.Subject.Chmod(p, mode), r.Model.Chmod(p, mode))
		return
	}
	ts := unix.Timespec{Sec: int64(r.r.Uint32() >> 1), Nsec: int64(r.r.IntN(1e9))}
	r.say("utimens %s", short(p))
	if r.same(r.Subject.SetTimes(p, ts), r.Model.SetTimes(p, ts)) {
		st, err := r.Subject.Stat(p)
		if err != nil || st.Mtim != ts {
			r.fail("mtime is %v (%v), want %v", st.Mtim, err, ts)
		}
	}
}

func (r *run) xattrOp() {
	p := r.path()
	name := fmt.Sprintf("user.attr%d", r.r.IntN(3))
	if st, err := r.Model.Stat(p); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	if r.r.IntN(4) == 0 {
		r.say("removexattr %s %s", short(p), name)
		r.same(r.Subject.RemoveXattr(p, name), r.Model.RemoveXattr(p, name))
		return
	}
	value := r.data()
	value = value[:min(len(value), 300)]
	flags := r.r.IntN(3) // 0, XATTR_CREATE, XATTR_REPLACE
	r.say("setxattr %s %s flags %d", short(p), name, flags)
	r.same(r.Subject.SetXattr(p, name, value, flags), r.Model.SetXattr(p, name, value, flags))
}

// fileOp does something with an open file, which may have no name by now.
func (r *run) fileOp() {
	if len(r.open) == 0 || len(r.open) < maxOpen && r.r.IntN(3) == 0 {
		r.openFile()
		return
	}
	i := r.r.IntN(len(r.open))
	f := r.open[i]
	switch k := r.r.IntN(20); {
	case k < 8:
		way := Plain
		if r.Ways {
			way = Way(r.r.IntN(int(ways)))
		}
		off, data := r.offset(), r.data()
		r.say("write %d bytes at %d, way %d, file %d", len(data), off, way, i)
		r.same(f.subject.Write(way, off, data), f.model.Write(way, off, data))
	case k < 12:
		off, n := r.offset(), 1+r.r.IntN(int(r.Reach/2))
		r.say("read %d bytes at %d, file %d", n, off, i)
		r.sameData(f, off, n)
	case k < 13:
		size := r.offset()
		r.say("ftruncate to %d, file %d", size, i)
		r.same(f.subject.Truncate(size), f.model.Truncate(size))
	case k < 17:
		mode := r.modes[r.r.IntN(len(r.modes))]
		off, n := r.offset(), 1+r.r.Int64N(r.Reach/2)
		r.say("fallocate mode %#x, %d bytes at %d, file %d", mode, n, off, i)
		r.same(f.subject.Allocate(mode, off, n), f.model.Allocate(mode, off, n))
	case k < 18:
		r.say("fsync file %d", i)
		r.same(f.subject.Sync(), f.model.Sync())
	default:
		r.say("close file %d", i)
		r.same(f.subject.Close(), f.model.Close())
		r.open = slices.Delete(r.open, i, i+1)
	}
}

const (
	keepSize  = unix.FALLOC_FL_KEEP_SIZE
	punchHole = unix.FALLOC_FL_PUNCH_HOLE
	zeroRange = unix.FALLOC_FL_ZERO_RANGE
)

func (r *run) openFile() {
	var p string
	var err, werr error
	var f pair
	if r.r.IntN(2) == 0 {
		p = r.anyPath()
		r.say("create %s", short(p))
		f.subject, err = r.Subject.Create(p, 0o640)
		f.model, werr = r.Model.Create(p, 0o640)
	} else {
		p = r.path()
		if st, err := r.Model.Stat(p); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		truncate := r.r.IntN(8) == 0
		r.say("open %s truncate %v", short(p), truncate)
		f.subject, err = r.Subject.Open(p, truncate)
		f.model, werr = r.Model.Open(p, truncate)
	}
	if r.same(err, werr) {
		r.open = append(r.open, f)
	}
}

func (r *run) sameData(f pair, off int64, n int) {
	r.t.Helper()
	got, err := f.subject.Read(off, n)
	want, werr := f.model.Read(off, n)
	if !r.same(err, werr) {
		return
	}
	if len(got) != len(want) {
		r.fail("read %d bytes at %d, want %d", len(got), off, len(want))
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		r.fail("byte %d is %#x, want %#x", off+int64(i), got[i], want[i])
	}
}

func (r *run) closeAll() {
	for _, f := range r.open {
		r.same(f.subject.Close(), f.model.Close())
	}
	r.open = nil
}

// compare compares the two trees whole.
func (r *run) compare() {
	r.t.Helper()
	r.compareDir("")
	for i, f := range r.open {
		size, err := f.subject.Size()
		want, werr := f.model.Size()
		if r.same(err, werr) && size != want {
			r.fail("size of file %d is %d, want %d", i, size, want)
		}
	}
}

func (r *run) compareDir(dir string) {
	r.t.Helper()
	names, err := r.Subject.List(dir)
	want, werr := r.Model.List(dir)
	r.same(err, werr)
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		r.fail("directory %q lists %q, want %q", short(dir), names, want)
	}
	for _, name := range names {
		p := strings.TrimPrefix(dir+"/"+name, "/")
		if r.compareNode(p) {
			r.compareDir(p)
		}
	}
}

// compareNode reports whether p is a directory.
func (r *run) compareNode(p string) (dir bool) {
	r.t.Helper()
	st, err := r.Subject.Stat(p)
	want, werr := r.Model.Stat(p)
	r.same(err, werr)
	if st.Mode != want.Mode || st.Nlink != want.Nlink || st.Uid != want.Uid || st.Gid != want.Gid {
		r.fail("%s has mode %o, %d links, owner %d:%d, want %o, %d, %d:%d", short(p),
			st.Mode, st.Nlink, st.Uid, st.Gid, want.Mode, want.Nlink, want.Uid, want.Gid)
	}
	kind := want.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR || kind == unix.S_IFREG {
		attrs, err := r.Subject.Xattrs(p)
		wantAttrs, werr := r.Model.Xattrs(p)
		if r.same(err, werr) && !maps.Equal(attrs, wantAttrs) {
			r.fail("%s has attributes %v, want %v", short(p), slices.Collect(maps.Keys(attrs)), slices.Collect(maps.Keys(wantAttrs)))
		}
	}
	if kind != unix.S_IFDIR && st.Size != want.Size {
		r.fail("%s has size %d, want %d", short(p), st.Size, want.Size)
	}
	switch kind {
	case unix.S_IFLNK:
		target, err := r.Subject.Readlink(p)
		wantTarget, werr := r.Model.Readlink(p)
		if r.same(err, werr) && target != wantTarget {
			r.fail("%s points to %q, want %q", short(p), target, wantTarget)
		}
	case unix.S_IFREG:
		r.compareContent(p)
	}
	return kind == unix.S_IFDIR
}

func (r *run) compareContent(p string) {
	r.t.Helper()
	var f pair
	var err, werr error
	f.subject, err = r.Subject.Open(p, false)
	f.model, werr = r.Model.Open(p, false)
	if !r.same(err, werr) {
		return
	}
	const piece = 1 << 20
	size, err := f.model.Size()
	if err != nil {
		r.fail("%v", err)
	}
	for off := int64(0); off < size; off += piece {
		r.sameData(f, off, piece)
	}
	r.same(f.subject.Close(), f.model.Close())
}
