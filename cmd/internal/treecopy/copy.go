package treecopy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Result counts what a copy did.
type Result struct {
	Files   int      `json:"files"`   // that were copied and verified, of every kind but directories
	Present int      `json:"present"` // that an earlier copy had finished
	Bytes   int64    `json:"bytes"`   // of regular files, copied or present
	Sockets []string `json:"sockets"` // left out
	Others  []string `json:"others"`  // in the target's directories and not in the source's; left alone
}

// Progress is how far a copy is.
type Progress struct {
	Files, AllFiles int
	Bytes, AllBytes int64
}

// workers is how many files are copied at a time.
const workers = 4

// copier is a copy under way.
type copier struct {
	from    string
	target  *Target
	plan    *Plan
	files   atomic.Int64
	present atomic.Int64
	bytes   atomic.Int64
	others  []string
	tell    func(Progress)
}

// Copy copies what p has found into t, which is made if it is missing, and stays
// the caller's to close. tell, if not nil, hears of the progress, from several
// goroutines. When it returns nil all of it is durable and was read back
// and compared, or had been by an earlier copy. Errors: those of this package
// and the filesystems' own; whatever was finished stays, and the next Copy goes
// on from there.
func Copy(ctx context.Context, p *Plan, t *Target, tell func(Progress)) (Result, error) {
	if err := t.begin(p); err != nil {
		return Result{}, err
	}
	c := &copier{from: p.root, target: t, plan: p, tell: tell}
	err := c.clearWork()
	if err == nil {
		err = c.makeDirs()
	}
	if err == nil {
		err = c.copyFiles(ctx)
	}
	if err == nil {
		err = each(ctx, p.links, c.makeLink)
	}
	if err == nil {
		err = unix.Unlinkat(int(t.root.Fd()), WorkDir, unix.AT_REMOVEDIR)
	}
	if err == nil {
		err = c.finishDirs()
	}
	if err == nil {
		err = p.unchanged()
	}
	return c.result(), err
}

func (c *copier) result() Result {
	return Result{Files: int(c.files.Load() - c.present.Load()), Present: int(c.present.Load()), Bytes: c.bytes.Load(), Sockets: c.plan.sockets, Others: c.others}
}

// clearWork removes what an interrupted copy left under way and this one has no
// use for: its file is gone from the source, or goes by other numbers since the
// source was mounted anew.
func (c *copier) clearWork() error {
	wanted := map[string]bool{}
	for _, e := range c.plan.files {
		if e.kind() == unix.S_IFREG {
			wanted[e.workName()] = true
		}
	}
	left, err := c.target.work.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, d := range left {
		if wanted[d.Name()] && d.Type().IsRegular() {
			continue
		}
		flag := 0
		if d.IsDir() {
			flag = unix.AT_REMOVEDIR
		}
		if err := unix.Unlinkat(int(c.target.work.Fd()), d.Name(), flag); err != nil {
			return &os.PathError{Op: "remove", Path: filepath.Join(WorkDir, d.Name()), Err: err}
		}
	}
	return nil
}

// done counts a file; add counts bytes of one.
func (c *copier) done() { c.files.Add(1); c.add(0) }

func (c *copier) add(n int64) {
	c.bytes.Add(n)
	if c.tell != nil {
		c.tell(Progress{int(c.files.Load()), len(c.plan.files) + len(c.plan.links), c.bytes.Load(), c.plan.bytes})
	}
}

// makeDirs makes the directories, for nobody but the caller: what they have in
// the source comes last, so that nobody gets more rights than there, not even for
// a moment.
func (c *copier) makeDirs() error {
	for _, e := range c.plan.dirs {
		if err := c.target.makeDir(e.path, e.workName()); err != nil {
			return err
		}
	}
	return nil
}

// finishDirs gives directories what they have in the source, children first,
// and makes them durable.
func (c *copier) finishDirs() error {
	known := c.plan.names()
	for i := len(c.plan.dirs) - 1; i >= 0; i-- {
		if err := c.finishDir(c.plan.dirs[i], known); err != nil {
			return err
		}
	}
	slices.Sort(c.others)
	return nil
}

// finishDir also notes which names in the directory are not known.
func (c *copier) finishDir(e *entry, known map[string]bool) error {
	d, err := c.target.dir(e.path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if path := filepath.Join(e.path, name); !known[path] {
			c.others = append(c.others, path)
		}
	}
	if err := bestow(filepath.Join(c.from, e.path), byFD(d), &e.st); err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	return d.Sync()
}

// copyFiles copies all that is neither directory nor link.
func (c *copier) copyFiles(ctx context.Context) error {
	return each(ctx, c.plan.largestFirst(), c.copyFile)
}

// each calls f for all of list, several at a time, until one fails.
func each(ctx context.Context, list []*entry, f func(context.Context, *entry) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	queue := make(chan *entry)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for e := range queue {
				if err := f(ctx, e); err != nil {
					stop(err)
				}
			}
		})
	}
	for _, e := range list {
		if ctx.Err() != nil {
			break
		}
		queue <- e
	}
	close(queue)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// copyFile copies one file of any kind, unless it is there.
func (c *copier) copyFile(ctx context.Context, e *entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	parent, name, err := c.target.parent(e.path)
	if err != nil {
		return err
	}
	defer parent.Close()
	there, err := c.inPlace(e, parent, name)
	if err != nil {
		return err
	}
	if there {
		c.present.Add(1)
		c.done()
		if e.kind() == unix.S_IFREG {
			c.add(e.st.Size)
		}
		return nil
	}
	if err := c.copyNew(ctx, e, parent, name); err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	c.done()
	return nil
}

// copyNew copies a file and gives it its place, which is name in parent.
func (c *copier) copyNew(ctx context.Context, e *entry, parent *os.File, name string) error {
	from := filepath.Join(c.from, e.path)
	work, err := c.workFile(e, from)
	if err != nil {
		return err
	}
	defer work.Close()
	if e.kind() == unix.S_IFREG {
		err = c.copyContent(ctx, e, from, byFD(work))
	}
	if err == nil {
		err = bestow(from, byFD(work), &e.st)
	}
	if err == nil && e.kind() == unix.S_IFREG {
		err = syncFile(byFD(work))
	}
	if err == nil {
		err = c.target.place(work, e.workName(), parent, name)
	}
	return err
}

// inPlace reports whether an earlier copy has put e into its place.
func (c *copier) inPlace(e *entry, parent *os.File, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: e.path, Err: err}
	}
	same := st.Mode == e.st.Mode && st.Mtim == e.st.Mtim && st.Rdev == e.st.Rdev && st.Size == e.st.Size && st.Uid == e.st.Uid && st.Gid == e.st.Gid
	if !same {
		return false, c.differs(e)
	}
	return true, nil
}

func (c *copier) differs(e *entry) error {
	return fmt.Errorf("%s %w from the source; nothing is overwritten", filepath.Join(c.target.path, e.path), ErrDiffers)
}

// makeLink gives a file that is in place a further name.
func (c *copier) makeLink(_ context.Context, e *entry) error {
	oldDir, old, err := c.target.parent(e.link)
	if err != nil {
		return err
	}
	defer oldDir.Close()
	dir, name, err := c.target.parent(e.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Linkat(int(oldDir.Fd()), old, int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EEXIST) {
		var a, b unix.Stat_t
		err = errors.Join(unix.Fstatat(int(oldDir.Fd()), old, &a, unix.AT_SYMLINK_NOFOLLOW), unix.Fstatat(int(dir.Fd()), name, &b, unix.AT_SYMLINK_NOFOLLOW))
		if err == nil && a.Ino != b.Ino {
			return c.differs(e)
		} else if err == nil {
			c.present.Add(1)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	c.done()
	return nil
}

// workFile opens, as a place (O_PATH), what becomes e in WorkDir: what an
// interrupted copy left of a regular file, or something new.
func (c *copier) workFile(e *entry, from string) (*os.File, error) {
	dir, name := int(c.target.work.Fd()), e.workName()
	if e.kind() == unix.S_IFREG {
		err := unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
	} else if err := makeSpecial(e, from, dir, name); err != nil {
		return nil, err
	}
	for {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
}

// makeSpecial makes a symlink, fifo or device. There is none of that name:
// clearWork removes what is not regular.
func makeSpecial(e *entry, from string, dir int, name string) error {
	if e.kind() == unix.S_IFLNK {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return unix.Symlinkat(target, dir, name)
	}
	return unix.Mknodat(dir, name, e.kind()|0o600, int(e.st.Rdev))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
