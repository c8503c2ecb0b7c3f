package treecopy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	from, to string
	plan     *plan
	files    atomic.Int64
	present  atomic.Int64
	bytes    atomic.Int64
	tell     func(Progress)
}

// Copy copies the content of the directory from into the directory to, which
// is made if it is missing. tell, if not nil, hears of the progress, from several
// goroutines. When it returns nil all of it is durable and was read back. Errors:
// ErrDiffers, ErrChanged, ErrVerify, the filesystems' own; whatever was
// finished stays, and the next Copy goes on from there.
func Copy(ctx context.Context, from, to string, tell func(Progress)) (Result, error) {
	p, err := makePlan(ctx, from)
	if err != nil {
		return Result{}, err
	}
	c := &copier{from: from, to: to, plan: p, tell: tell}
	if err := c.makeDirs(); err != nil {
		return c.result(), err
	}
	if err := c.clearWork(); err != nil {
		return c.result(), err
	}
	err = c.copyFiles(ctx)
	if err == nil {
		err = each(ctx, p.links, c.makeLink)
	}
	if err == nil {
		err = os.Remove(filepath.Join(to, WorkDir))
	}
	if err == nil {
		err = c.finishDirs()
	}
	if err == nil {
		err = p.unchanged(from)
	}
	return c.result(), err
}

func (c *copier) result() Result {
	return Result{Files: int(c.files.Load() - c.present.Load()), Present: int(c.present.Load()), Bytes: c.bytes.Load(), Sockets: c.plan.sockets}
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
	dir := filepath.Join(c.to, WorkDir)
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range left {
		if wanted[d.Name()] && d.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, d.Name())); err != nil {
			return err
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

// makeDirs makes the directories and gives them their owners, so that nobody
// gets more rights than in the source, not even for a moment. Their times and full
// modes come last.
func (c *copier) makeDirs() error {
	for _, e := range append([]*entry{{path: WorkDir}}, c.plan.dirs...) {
		to := filepath.Join(c.to, e.path)
		err := os.Mkdir(to, 0o700)
		if errors.Is(err, os.ErrNotExist) && e.path == WorkDir { // the target itself
			err = os.MkdirAll(to, 0o700)
		}
		if errors.Is(err, os.ErrExist) {
			var st unix.Stat_t
			if err = unix.Lstat(to, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				err = fmt.Errorf("%s %w", to, ErrDiffers)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finishDirs gives directories what they have in the source, children first,
// and makes them durable.
func (c *copier) finishDirs() error {
	for i := len(c.plan.dirs) - 1; i >= 0; i-- {
		e := c.plan.dirs[i]
		to := filepath.Join(c.to, e.path)
		if err := bestow(filepath.Join(c.from, e.path), to, &e.st); err != nil {
			return err
		}
		d, err := os.Open(to)
		if err != nil {
			return err
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
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
	from, to := filepath.Join(c.from, e.path), filepath.Join(c.to, e.path)
	there, err := c.inPlace(e, to)
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
	work := filepath.Join(c.to, WorkDir, e.workName())
	if e.kind() == unix.S_IFREG {
		err = c.copyContent(ctx, e, from, work)
	} else {
		err = makeSpecial(e, from, work)
	}
	if err == nil {
		err = bestow(from, work, &e.st)
	}
	if err == nil && e.kind() == unix.S_IFREG {
		err = syncFile(work)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, work, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	c.done()
	return nil
}

// inPlace reports whether an earlier copy has put e into its place.
func (c *copier) inPlace(e *entry, to string) (bool, error) {
	var st unix.Stat_t
	err := unix.Lstat(to, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: to, Err: err}
	}
	same := st.Mode == e.st.Mode && st.Mtim == e.st.Mtim && st.Rdev == e.st.Rdev && st.Size == e.st.Size && st.Uid == e.st.Uid && st.Gid == e.st.Gid
	if !same {
		return false, fmt.Errorf("%s %w from the source; nothing is overwritten", to, ErrDiffers)
	}
	return true, nil
}

// makeLink gives a file that is in place a further name.
func (c *copier) makeLink(_ context.Context, e *entry) error {
	old, to := filepath.Join(c.to, e.link), filepath.Join(c.to, e.path)
	err := unix.Linkat(unix.AT_FDCWD, old, unix.AT_FDCWD, to, 0)
	if errors.Is(err, unix.EEXIST) {
		var a, b unix.Stat_t
		if err = errors.Join(unix.Lstat(old, &a), unix.Lstat(to, &b)); err == nil && a.Ino != b.Ino {
			err = fmt.Errorf("%s %w from the source; nothing is overwritten", to, ErrDiffers)
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

// makeSpecial makes a symlink, fifo or device.
func makeSpecial(e *entry, from, work string) error {
	if err := os.Remove(work); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if e.kind() == unix.S_IFLNK {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, work)
	}
	return unix.Mknod(work, e.kind()|0o600, int(e.st.Rdev))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
