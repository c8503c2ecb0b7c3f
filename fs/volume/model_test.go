package volume

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/volume/modeltest"
)

// TestModel runs random operations on the engine and on a plain directory.
func TestModel(t *testing.T) {
	for _, blockSize := range []int{4096, 16384, 65536} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			unix.Umask(0)
			v := newVolume(t, blockSize)
			modeltest.Run(t, modeltest.Config{
				Seed: uint64(time.Now().UnixNano()), Steps: 1500, Reach: int64(blockSize) * 64,
				Subject: engine{v}, Model: modeltest.Dir(t.TempDir()),
				Reopen: func() modeltest.Tree { v.reopen(); return engine{v} },
			})
		})
	}
}

// engine is a volume as a modeltest.Tree.
type engine struct{ *testVolume }

// at looks up a path and calls f with its node.
func (e engine) at(path string, f func(id NodeID) error) error {
	return e.walk(RootID, path, f)
}

func (e engine) walk(dir NodeID, path string, f func(id NodeID) error) error {
	if path == "" {
		return f(dir)
	}
	name, rest, _ := strings.Cut(path, "/")
	n, err := e.Lookup(dir, name)
	if err != nil {
		return errno(err)
	}
	defer e.Forget(n.ID, 1)
	return e.walk(n.ID, rest, f)
}

// in looks up the directory of a path and calls f with it and the last name.
func (e engine) in(path string, f func(dir NodeID, name string) error) error {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	return e.at(dir, func(id NodeID) error {
		// As the kernel does before it goes on.
		if st, err := e.GetAttr(id); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		return errno(f(id, name))
	})
}

// errno reduces an error to its errno, as the adapter does.
func errno(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// made forgets the node of a call that makes one.
func (e engine) made(n Entry, err error) error {
	if err == nil {
		e.Forget(n.ID, 1)
	}
	return err
}

func (e engine) Create(path string, mode uint32) (f modeltest.File, err error) {
	err = e.in(path, func(dir NodeID, name string) error {
		n, h, err := e.Volume.Create(dir, name, Creator{Mode: mode}, OpenOptions{})
		if err == nil {
			f = engineFile{h}
		}
		return e.made(n, err)
	})
	return f, err
}

func (e engine) Open(path string, truncate bool) (f modeltest.File, err error) {
	err = e.at(path, func(id NodeID) error {
		h, err := e.Volume.Open(id, OpenOptions{Truncate: truncate})
		if err == nil {
			f = engineFile{h}
		}
		return errno(err)
	})
	return f, err
}

func (e engine) change(path string, c Change) error {
	return e.at(path, func(id NodeID) error {
		_, err := e.SetAttr(id, c)
		return errno(err)
	})
}

func (e engine) Truncate(path string, size int64) error {
	return e.change(path, Change{Mask: ChangeSize, Size: size})
}

func (e engine) Chmod(path string, mode uint32) error {
	return e.change(path, Change{Mask: ChangeMode, Mode: mode})
}

func (e engine) SetTimes(path string, mtime unix.Timespec) error {
	return e.change(path, Change{Mask: ChangeMtime, Mtime: mtime})
}

func (e engine) Mkdir(path string, mode uint32) error {
	return e.in(path, func(dir NodeID, name string) error {
		return e.made(e.Volume.Mkdir(dir, name, Creator{Mode: mode}))
	})
}

func (e engine) Mkfifo(path string, mode uint32) error {
	return e.in(path, func(dir NodeID, name string) error {
		return e.made(e.Mknod(dir, name, Creator{Mode: mode}, unix.S_IFIFO, 0))
	})
}

func (e engine) Symlink(target, path string) error {
	return e.in(path, func(dir NodeID, name string) error {
		return e.made(e.Volume.Symlink(dir, name, target, Creator{}))
	})
}

func (e engine) Rmdir(path string) error  { return e.in(path, e.Volume.Rmdir) }
func (e engine) Unlink(path string) error { return e.in(path, e.Volume.Unlink) }

func (e engine) Link(path, newPath string) error {
	return e.at(path, func(id NodeID) error {
		return e.in(newPath, func(dir NodeID, name string) error {
			// The kernel looks at the new name before it asks for a link.
			if n, err := e.Lookup(dir, name); err == nil {
				e.Forget(n.ID, 1)
				return unix.EEXIST
			}
			return e.made(e.Volume.Link(id, dir, name))
		})
	})
}

func (e engine) Rename(path, newPath string, flags uint) error {
	return e.in(path, func(dir NodeID, name string) error {
		return e.in(newPath, func(newDir NodeID, newName string) error {
			return e.Volume.Rename(dir, name, newDir, newName, flags)
		})
	})
}

func (e engine) SetXattr(path, name string, value []byte, flags int) error {
	return e.at(path, func(id NodeID) error {
		return errno(e.Volume.SetXattr(id, name, value, flags, false))
	})
}

func (e engine) RemoveXattr(path, name string) error {
	return e.at(path, func(id NodeID) error { return errno(e.Volume.RemoveXattr(id, name)) })
}

func (e engine) Stat(path string) (st unix.Stat_t, err error) {
	err = e.at(path, func(id NodeID) error {
		st, err = e.GetAttr(id)
		return errno(err)
	})
	return st, err
}

func (e engine) Readlink(path string) (target string, err error) {
	err = e.at(path, func(id NodeID) error {
		target, err = e.Volume.Readlink(id)
		return errno(err)
	})
	return target, err
}

func (e engine) Xattrs(path string) (map[string]string, error) {
	attrs := map[string]string{}
	err := e.at(path, func(id NodeID) error {
		names, err := e.ListXattr(id)
		for _, name := range names {
			if !strings.HasPrefix(name, "user.") {
				continue
			}
			value, err := e.GetXattr(id, name)
			if err != nil {
				return errno(err)
			}
			attrs[name] = string(value)
		}
		return errno(err)
	})
	return attrs, err
}

func (e engine) List(path string) (names []string, err error) {
	err = e.at(path, func(id NodeID) error {
		h, err := e.OpenDir(id)
		if err != nil {
			return errno(err)
		}
		defer h.Close()
		return errno(h.Read(0, func(d DirEntry) bool {
			if d.Name != "." && d.Name != ".." {
				names = append(names, d.Name)
			}
			return true
		}))
	})
	return names, err
}

type engineFile struct{ h *Handle }

func (f engineFile) Read(off int64, n int) ([]byte, error) {
	buf := make([]byte, n)
	n, err := f.h.ReadAt(buf, off)
	return buf[:n], errno(err)
}

func (f engineFile) Write(_ modeltest.Way, off int64, data []byte) error {
	_, err := f.h.WriteAt(data, off, Writer{})
	return errno(err)
}

func (f engineFile) Truncate(size int64) error {
	_, err := f.h.v.SetAttr(f.h.Node(), Change{Mask: ChangeSize, Size: size})
	return errno(err)
}

func (f engineFile) Allocate(mode uint32, off, n int64) error {
	return errno(f.h.Allocate(mode, off, n, Writer{}))
}

func (f engineFile) Sync() error          { return errno(f.h.Sync(false)) }
func (f engineFile) Size() (int64, error) { return f.h.Size(), nil }
func (f engineFile) Close() error         { return errno(f.h.Close()) }
