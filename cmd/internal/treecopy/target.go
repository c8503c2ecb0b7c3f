package treecopy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Target is the directory that is copied into. It may be somebody else's, who
// can rename and replace what is in it at any moment. So all of it is reached from
// descriptors and by no symlink, a directory has to be the one that was made or
// found there at first, and files come into being in a directory that nobody else
// gets into. As long as it is open, its filesystem is in use.
type Target struct {
	path  string            // for messages
	above *os.File          // where it is to be made; nil if it was there
	root  *os.File          // the target itself; nil until it is made
	work  *os.File          // WorkDir, once a copy has begun
	dirs  map[string]FileID // those of the copy, by paths below root
}

// OpenTarget opens the directory at path, or, if that is missing, the one that it
// is to be made in. No component of the path may be a symlink.
func OpenTarget(path string) (*Target, error) {
	t := &Target{path: path, dirs: map[string]FileID{}}
	var err error
	if t.root, err = openDir(path); errors.Is(err, unix.ENOENT) {
		t.above, err = openDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Device is that of the filesystem which the target is in, as stat(2) has it.
func (t *Target) Device() (uint64, error) {
	d := t.root
	if d == nil {
		d = t.above
	}
	id, err := idOf(d)
	return id.Dev, err
}

func (t *Target) Close() error {
	var err error
	for _, f := range []*os.File{t.work, t.root, t.above} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// begin makes the target if it is missing, and in it WorkDir. It is refused in the
// source of the plan p, and when a directory of the source is where p would make
// one.
func (t *Target) begin(p *Plan) error {
	sources := p.sources()
	var err error
	if t.root == nil {
		err = t.make(sources)
	} else {
		err = refuseSources(t.root, p.dirs, sources)
	}
	if err == nil {
		err = t.openWork()
	}
	return err
}

// openDir opens a directory by a path without symlinks, for use as a place.
func openDir(path string) (*os.File, error) {
	return openHow(unix.AT_FDCWD, path, path, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
}

// make makes the target itself.
func (t *Target) make(sources map[FileID]bool) (err error) {
	if err := refuseSource(t.above, sources); err != nil {
		return err
	}
	if err := unix.Mkdirat(int(t.above.Fd()), filepath.Base(t.path), 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: t.path, Err: err}
	}
	t.root, err = openAt(t.above, filepath.Base(t.path), t.path, unix.O_PATH|unix.O_DIRECTORY)
	return err
}

// refuseSource is ErrSource if d is one of sources, by whatever path.
func refuseSource(d *os.File, sources map[FileID]bool) error {
	is, err := idOf(d)
	if err == nil && sources[is] {
		err = fmt.Errorf("%s: %w", d.Name(), ErrSource)
	}
	return err
}

// refuseSources is ErrSource if one of sources is in root at the path of one of
// dirs, the first of which is root itself.
func refuseSources(root *os.File, dirs []*entry, sources map[FileID]bool) error {
	for _, e := range dirs {
		d, err := openAt(root, e.path, filepath.Join(root.Name(), e.path), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue // none is there; what else is, shows when one is made
		}
		err = refuseSource(d, sources)
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// openWork opens WorkDir, made if it is missing. One that somebody else owns or
// gets into is refused: what is in it could be exchanged after it was verified.
// One that another copy works in, too: both would write to the same files.
func (t *Target) openWork() error {
	path := filepath.Join(t.path, WorkDir)
	err := unix.Mkdirat(int(t.root.Fd()), WorkDir, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	work, err := openAt(t.root, WorkDir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s %w", path, ErrDiffers)
	}
	if err != nil {
		return err
	}
	t.work = work
	var st unix.Stat_t
	if err = unix.Fstat(int(work.Fd()), &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o777 != 0o700) {
		err = fmt.Errorf("%s: %w", path, ErrForeign)
	}
	if err != nil {
		return err
	}
	err = unix.Flock(int(work.Fd()), unix.LOCK_EX|unix.LOCK_NB) // until Close
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %w", t.path, ErrBusy)
	}
	return err
}

// openHow is openat2(2). name is what errors call it.
func openHow(at int, path, name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for {
		fd, err := unix.Openat2(at, path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN): // a rename at the same time
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func openAt(dir *os.File, path, name string, flags int) (*os.File, error) {
	return openHow(int(dir.Fd()), path, name, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// byFD is a path to what f has open, whatever its names are now.
func byFD(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func idOf(f *os.File) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return FileID{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return FileID{st.Dev, st.Ino}, nil
}

// dir opens a directory that makeDir made or found.
func (t *Target) dir(path string, flags int) (*os.File, error) {
	name := filepath.Join(t.path, path)
	d, err := openAt(t.root, path, name, flags|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s: %w", name, ErrReplaced)
	}
	if err != nil {
		return nil, err
	}
	is, err := idOf(d)
	if was := t.dirs[path]; err == nil && is != was {
		err = fmt.Errorf("%s: %w", name, ErrReplaced)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// parent opens the directory that path is in, and returns its name in there.
func (t *Target) parent(path string) (*os.File, string, error) {
	d, err := t.dir(filepath.Dir(path), unix.O_PATH)
	return d, filepath.Base(path), err
}

// makeDir makes a directory, unless it is there, and notes which one it is. It
// is made in WorkDir, so that none that was slipped in passes for it.
func (t *Target) makeDir(path, workName string) error {
	if path == "." {
		is, err := idOf(t.root)
		t.dirs[path] = is
		return err
	}
	parent, name, err := t.parent(path)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(t.work.Fd()), workName, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: filepath.Join(t.path, path), Err: err}
	}
	d, err := openAt(t.work, workName, filepath.Join(t.path, path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { d.Close() }()
	err = t.place(d, workName, parent, name)
	if errors.Is(err, unix.EEXIST) {
		d.Close()
		if err := unix.Unlinkat(int(t.work.Fd()), workName, unix.AT_REMOVEDIR); err != nil {
			return err
		}
		d, err = openAt(parent, name, filepath.Join(t.path, path), unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return fmt.Errorf("%s %w", filepath.Join(t.path, path), ErrDiffers)
		}
	}
	if err != nil {
		return err
	}
	t.dirs[path], err = idOf(d)
	return err
}

// place gives what f has open and is called workName in WorkDir its name. Nothing
// is overwritten.
func (t *Target) place(f *os.File, workName string, parent *os.File, name string) error {
	is, err := idOf(f)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.work.Fd()), workName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if (FileID{st.Dev, st.Ino}) != is {
		return fmt.Errorf("%s: %w", filepath.Join(WorkDir, workName), ErrReplaced)
	}
	return unix.Renameat2(int(t.work.Fd()), workName, int(parent.Fd()), name, unix.RENAME_NOREPLACE)
}
