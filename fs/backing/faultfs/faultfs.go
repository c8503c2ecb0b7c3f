// Package faultfs wraps a backing filesystem and makes chosen operations fail.
//
// A [Plan] names a kind of operation, which of them fails (the n-th from when
// the plan was set), with what error, and for how long: once, so many times or
// until [FS.Clear]. A write may fail short: the wrapped file then has the
// first part, and the caller is told how much. A failed sync or a failed write
// does nothing beyond that, so that under crashfs the data stays as lost as
// the kernel may lose it.
//
// Reads can fail too. What is opened before a plan is set obeys it as well.
package faultfs

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
)

// Kind is a kind of operation.
type Kind int

// The kinds.
const (
	Read Kind = iota
	Write
	Truncate
	Allocate
	Sync    // of a file
	DirSync // of a directory, or of all
	Name    // create, link, unlink, rename, mkdir, rmdir
	Open    // without creating
	Attr    // setting mode, owner, times, xattrs
	kinds
)

var kindNames = [kinds]string{"read", "write", "truncate", "allocate", "sync", "dirsync", "name", "open", "attr"}

func (k Kind) String() string { return kindNames[k] }

// Plan says which operations fail.
type Plan struct {
	Kind Kind
	// Skip is how many operations of the kind still succeed.
	Skip int
	// Times is how many fail after that; 0 means all.
	Times int
	Err   unix.Errno
	// Short is how many bytes of a failing write are written all the same.
	Short int
	// Match, if not nil, limits the plan to files opened under names it
	// accepts. Unnamed files have the name "".
	Match func(name string) bool
}

// FS injects faults into what is reached through its Root.
type FS struct {
	root backing.Dir

	mu    sync.Mutex
	plans []*Plan
	count [kinds]int
	hits  int
}

// New wraps root.
func New(root backing.Dir) *FS { return &FS{root: root} }

// Root is the wrapped root.
func (fs *FS) Root() backing.Dir { return &dir{fs: fs, Dir: fs.root} }

// Set adds a plan. Each operation obeys the first that applies.
func (fs *FS) Set(p Plan) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.plans = append(fs.plans, &p)
}

// Clear drops all plans.
func (fs *FS) Clear() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.plans = nil
}

// Hits returns how many operations were made to fail.
func (fs *FS) Hits() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.hits
}

// Count returns how many operations of a kind there were, failed ones
// included.
func (fs *FS) Count(k Kind) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.count[k]
}

// fault counts an operation and returns the plan that makes it fail.
func (fs *FS) fault(k Kind, name string) *Plan {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.count[k]++
	for i, p := range fs.plans {
		if p.Kind != k || (p.Match != nil && !p.Match(name)) {
			continue
		}
		if p.Skip > 0 {
			p.Skip--
			continue
		}
		if p.Times > 0 {
			if p.Times--; p.Times == 0 {
				fs.plans = append(fs.plans[:i:i], fs.plans[i+1:]...)
			}
		}
		fs.hits++
		return p
	}
	return nil
}

func (fs *FS) try(k Kind, name string, call func() error) error {
	if p := fs.fault(k, name); p != nil {
		return p.Err
	}
	return call()
}

type file struct {
	backing.File
	fs   *FS
	name string
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if plan := f.fs.fault(Read, f.name); plan != nil {
		return 0, plan.Err
	}
	return f.File.ReadAt(p, off)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	plan := f.fs.fault(Write, f.name)
	if plan == nil {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:min(plan.Short, len(p))], off)
	if err == nil {
		err = plan.Err
	}
	return n, err
}

func (f *file) Truncate(size int64) error {
	return f.fs.try(Truncate, f.name, func() error { return f.File.Truncate(size) })
}

func (f *file) Allocate(mode uint32, off, length int64) error {
	return f.fs.try(Allocate, f.name, func() error { return f.File.Allocate(mode, off, length) })
}

func (f *file) Sync() error { return f.fs.try(Sync, f.name, f.File.Sync) }

func (f *file) Datasync() error { return f.fs.try(Sync, f.name, f.File.Datasync) }

func (f *file) Chmod(perm uint32) error {
	return f.fs.try(Attr, f.name, func() error { return f.File.Chmod(perm) })
}

func (f *file) Chown(uid, gid int) error {
	return f.fs.try(Attr, f.name, func() error { return f.File.Chown(uid, gid) })
}

func (f *file) Utimes(atime, mtime unix.Timespec) error {
	return f.fs.try(Attr, f.name, func() error { return f.File.Utimes(atime, mtime) })
}

func (f *file) Setxattr(attr string, value []byte, flags int) error {
	return f.fs.try(Attr, f.name, func() error { return f.File.Setxattr(attr, value, flags) })
}

func (f *file) Removexattr(attr string) error {
	return f.fs.try(Attr, f.name, func() error { return f.File.Removexattr(attr) })
}

// dir wraps a directory; calls that change nothing go straight to it.
type dir struct {
	backing.Dir
	fs *FS
}

func (d *dir) OpenFile(name string, flags int, perm uint32) (backing.File, error) {
	k := Open
	if flags&unix.O_CREAT != 0 {
		k = Name
	}
	return d.file(k, name, func() (backing.File, error) { return d.Dir.OpenFile(name, flags, perm) })
}

func (d *dir) Tmpfile(perm uint32) (backing.File, error) {
	return d.file(Name, "", func() (backing.File, error) { return d.Dir.Tmpfile(perm) })
}

func (d *dir) file(k Kind, name string, open func() (backing.File, error)) (backing.File, error) {
	if p := d.fs.fault(k, name); p != nil {
		return nil, p.Err
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	return &file{File: f, fs: d.fs, name: name}, nil
}

func (d *dir) OpenDir(name string) (backing.Dir, error) {
	if p := d.fs.fault(Open, name); p != nil {
		return nil, p.Err
	}
	sub, err := d.Dir.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &dir{Dir: sub, fs: d.fs}, nil
}

func (d *dir) LinkFile(f backing.File, name string) error {
	w, ok := f.(*file)
	if !ok {
		return unix.EXDEV
	}
	return d.fs.try(Name, name, func() error { return d.Dir.LinkFile(w.File, name) })
}

func (d *dir) Link(name string, to backing.Dir, newName string) error {
	t, ok := to.(*dir)
	if !ok {
		return unix.EXDEV
	}
	return d.fs.try(Name, name, func() error { return d.Dir.Link(name, t.Dir, newName) })
}

func (d *dir) Rename(name string, to backing.Dir, newName string, flags uint) error {
	t, ok := to.(*dir)
	if !ok {
		return unix.EXDEV
	}
	return d.fs.try(Name, name, func() error { return d.Dir.Rename(name, t.Dir, newName, flags) })
}

func (d *dir) Unlink(name string) error {
	return d.fs.try(Name, name, func() error { return d.Dir.Unlink(name) })
}

func (d *dir) Rmdir(name string) error {
	return d.fs.try(Name, name, func() error { return d.Dir.Rmdir(name) })
}

func (d *dir) Mkdir(name string, perm uint32) error {
	return d.fs.try(Name, name, func() error { return d.Dir.Mkdir(name, perm) })
}

func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	return d.fs.try(Name, name, func() error { return d.Dir.Mknod(name, mode, dev) })
}

func (d *dir) Symlink(target, name string) error {
	return d.fs.try(Name, name, func() error { return d.Dir.Symlink(target, name) })
}

func (d *dir) Chmod(name string, perm uint32) error {
	return d.fs.try(Attr, name, func() error { return d.Dir.Chmod(name, perm) })
}

func (d *dir) Chown(name string, uid, gid int) error {
	return d.fs.try(Attr, name, func() error { return d.Dir.Chown(name, uid, gid) })
}

func (d *dir) Utimes(name string, atime, mtime unix.Timespec) error {
	return d.fs.try(Attr, name, func() error { return d.Dir.Utimes(name, atime, mtime) })
}

func (d *dir) Setxattr(name, attr string, value []byte, flags int) error {
	return d.fs.try(Attr, name, func() error { return d.Dir.Setxattr(name, attr, value, flags) })
}

func (d *dir) Removexattr(name, attr string) error {
	return d.fs.try(Attr, name, func() error { return d.Dir.Removexattr(name, attr) })
}

func (d *dir) Sync() error { return d.fs.try(DirSync, "", d.Dir.Sync) }

func (d *dir) SyncAll() error { return d.fs.try(DirSync, "", d.Dir.SyncAll) }
