package treecopy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// target is the directory that is copied into. It may be somebody else's, who
// can rename and replace what is in it at any moment. So all of it is reached from
// descriptors and by no symlink, a directory has to be the one that was made or
// found there at first, and files come into being in a directory that nobody else
// gets into.
type target struct {
	path string           // for messages
	root *os.File         // the target itself
	work *os.File         // WorkDir
	dirs map[string]inode // those of the copy, by paths below root
}

// openTarget opens the directory at path, which is made if it is missing, and
// in it WorkDir. It is refused in the source of the plan p, and when a directory
// of the source is where p would make one.
func openTarget(path string, p *plan) (*target, error) {
	sources := p.sources()
	root, err := openDir(path)
	if errors.Is(err, unix.ENOENT) {
		root, err = makeTarget(path, sources)
	} else if err == nil {
		err = refuseSources(root, p.dirs, sources)
	}
	if err != nil {
		if root != nil {
			root.Close()
		}
		return nil, err
	}
	t := &target{path: path, root: root, dirs: map[string]inode{}}
	if t.work, err = t.openWork(); err != nil {
		t.root.Close()
		return nil, err
	}
	return t, nil
}

func (t *target) Close() error { return errors.Join(t.work.Close(), t.root.Close()) }

// openDir opens a directory by a path without symlinks, for use as a place.
func openDir(path string) (*os.File, error) {
	return openHow(unix.AT_FDCWD, path, path, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
}

func makeTarget(path string, sources map[inode]bool) (*os.File, error) {
	parent, err := openDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := refuseSource(parent, sources); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(int(parent.Fd()), filepath.Base(path), 0o700); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return openAt(parent, filepath.Base(path), path, unix.O_PATH|unix.O_DIRECTORY)
}

// refuseSource is ErrSource if d is one of sources, by whatever path.
func refuseSource(d *os.File, sources map[inode]bool) error {
	is, err := inodeOf(d)
	if err == nil && sources[is] {
		err = fmt.Errorf("%s: %w", d.Name(), ErrSource)
	}
	return err
}

// refuseSources is ErrSource if one of sources is in root at the path of one of
// dirs, the first of which is root itself.
func refuseSources(root *os.File, dirs []*entry, sources map[inode]bool) error {
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
func (t *target) openWork() (*os.File, error) {
	path := filepath.Join(t.path, WorkDir)
	err := unix.Mkdirat(int(t.root.Fd()), WorkDir, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	work, err := openAt(t.root, WorkDir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s %w", path, ErrDiffers)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(work.Fd()), &st); err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o777 != 0o700) {
		err = fmt.Errorf("%s: %w", path, ErrForeign)
	}
	if err != nil {
		work.Close()
		return nil, err
	}
	return work, nil
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

func inodeOf(f *os.File) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inode{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

// dir opens a directory that makeDir made or found.
func (t *target) dir(path string, flags int) (*os.File, error) {
	name := filepath.Join(t.path, path)
	d, err := openAt(t.root, path, name, flags|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s: %w", name, ErrReplaced)
	}
	if err != nil {
		return nil, err
	}
	is, err := inodeOf(d)
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
func (t *target) parent(path string) (*os.File, string, error) {
	d, err := t.dir(filepath.Dir(path), unix.O_PATH)
	return d, filepath.Base(path), err
}

// makeDir makes a directory, unless it is there, and notes which one it is. It
// is made in WorkDir, so that none that was slipped in passes for it.
func (t *target) makeDir(path, workName string) error {
	if path == "." {
		is, err := inodeOf(t.root)
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
	t.dirs[path], err = inodeOf(d)
	return err
}

// place gives what f has open and is called workName in WorkDir its name. Nothing
// is overwritten.
func (t *target) place(f *os.File, workName string, parent *os.File, name string) error {
	is, err := inodeOf(f)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.work.Fd()), workName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if (inode{st.Dev, st.Ino}) != is {
		return fmt.Errorf("%s: %w", filepath.Join(WorkDir, workName), ErrReplaced)
	}
	return unix.Renameat2(int(t.work.Fd()), workName, int(parent.Fd()), name, unix.RENAME_NOREPLACE)
}
