package faultfs

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

func open(t *testing.T) (*FS, backing.Dir, backing.File) {
	t.Helper()
	fs := New(crashfs.New().Root())
	d := fs.Root()
	f, err := d.OpenFile("f", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return fs, d, f
}

func TestEveryKindFails(t *testing.T) {
	zero := unix.Timespec{}
	tests := map[Kind]map[string]func(d backing.Dir, f backing.File) error{
		Read:     {"ReadAt": func(d backing.Dir, f backing.File) error { _, err := f.ReadAt(make([]byte, 1), 0); return err }},
		Write:    {"WriteAt": func(d backing.Dir, f backing.File) error { _, err := f.WriteAt([]byte("x"), 0); return err }},
		Truncate: {"Truncate": func(d backing.Dir, f backing.File) error { return f.Truncate(1) }},
		Allocate: {"Allocate": func(d backing.Dir, f backing.File) error { return f.Allocate(0, 0, 1) }},
		Sync: {
			"Sync":     func(d backing.Dir, f backing.File) error { return f.Sync() },
			"Datasync": func(d backing.Dir, f backing.File) error { return f.Datasync() },
		},
		DirSync: {
			"Sync":    func(d backing.Dir, f backing.File) error { return d.Sync() },
			"SyncAll": func(d backing.Dir, f backing.File) error { return d.SyncAll() },
		},
		Name: {
			"create": func(d backing.Dir, f backing.File) error {
				_, err := d.OpenFile("n", unix.O_RDWR|unix.O_CREAT, 0)
				return err
			},
			"Tmpfile":  func(d backing.Dir, f backing.File) error { _, err := d.Tmpfile(0); return err },
			"LinkFile": func(d backing.Dir, f backing.File) error { return d.LinkFile(f, "n") },
			"Link":     func(d backing.Dir, f backing.File) error { return d.Link("f", d, "n") },
			"Rename":   func(d backing.Dir, f backing.File) error { return d.Rename("f", d, "n", 0) },
			"Unlink":   func(d backing.Dir, f backing.File) error { return d.Unlink("f") },
			"Rmdir":    func(d backing.Dir, f backing.File) error { return d.Rmdir("f") },
			"Mkdir":    func(d backing.Dir, f backing.File) error { return d.Mkdir("n", 0) },
			"Mknod":    func(d backing.Dir, f backing.File) error { return d.Mknod("n", unix.S_IFIFO, 0) },
			"Symlink":  func(d backing.Dir, f backing.File) error { return d.Symlink("x", "n") },
		},
		Open: {
			"OpenFile": func(d backing.Dir, f backing.File) error { _, err := d.OpenFile("f", unix.O_RDONLY, 0); return err },
			"OpenDir":  func(d backing.Dir, f backing.File) error { _, err := d.OpenDir(""); return err },
		},
		Attr: {
			"Chmod":           func(d backing.Dir, f backing.File) error { return f.Chmod(0) },
			"Chown":           func(d backing.Dir, f backing.File) error { return f.Chown(0, 0) },
			"Utimes":          func(d backing.Dir, f backing.File) error { return f.Utimes(zero, zero) },
			"Setxattr":        func(d backing.Dir, f backing.File) error { return f.Setxattr("user.a", nil, 0) },
			"Removexattr":     func(d backing.Dir, f backing.File) error { return f.Removexattr("user.a") },
			"Dir.Chmod":       func(d backing.Dir, f backing.File) error { return d.Chmod("f", 0) },
			"Dir.Chown":       func(d backing.Dir, f backing.File) error { return d.Chown("f", 0, 0) },
			"Dir.Utimes":      func(d backing.Dir, f backing.File) error { return d.Utimes("f", zero, zero) },
			"Dir.Setxattr":    func(d backing.Dir, f backing.File) error { return d.Setxattr("f", "user.a", nil, 0) },
			"Dir.Removexattr": func(d backing.Dir, f backing.File) error { return d.Removexattr("f", "user.a") },
		},
	}
	for k, calls := range tests {
		for name, call := range calls {
			t.Run(k.String()+"/"+name, func(t *testing.T) {
				fs, d, f := open(t)
				if _, err := f.WriteAt([]byte("content"), 0); err != nil {
					t.Fatal(err)
				}
				fs.Set(Plan{Kind: k, Times: 1, Err: unix.EDQUOT})
				if err := call(d, f); err != unix.EDQUOT {
					t.Errorf("got %v, want the planned error", err)
				}
				if err := call(d, f); err == unix.EDQUOT || fs.Hits() != 1 {
					t.Errorf("got %v and %d faults, want one fault", err, fs.Hits())
				}
			})
		}
	}
}

func TestSkipTimesAndClear(t *testing.T) {
	fs, _, f := open(t)
	fs.Set(Plan{Kind: Sync, Skip: 2, Times: 2, Err: unix.EIO})
	for i, want := range []error{nil, nil, unix.EIO, unix.EIO, nil} {
		if err := f.Sync(); err != want {
			t.Errorf("sync %d: got %v, want %v", i, err, want)
		}
	}
	fs.Set(Plan{Kind: Sync, Err: unix.EIO})
	for range 5 {
		if err := f.Sync(); err != unix.EIO {
			t.Errorf("got %v, want every one to fail", err)
		}
	}
	fs.Clear()
	if err := f.Sync(); err != nil {
		t.Errorf("after Clear: %v", err)
	}
	if fs.Count(Sync) != 11 {
		t.Errorf("counted %d syncs, want 11", fs.Count(Sync))
	}
}

func TestShortWrite(t *testing.T) {
	fs, _, f := open(t)
	fs.Set(Plan{Kind: Write, Times: 1, Err: unix.ENOSPC, Short: 3})
	n, err := f.WriteAt([]byte("abcdef"), 0)
	if n != 3 || err != unix.ENOSPC {
		t.Errorf("got %d, %v, want 3 bytes and ENOSPC", n, err)
	}
	b := make([]byte, 3)
	if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, []byte("abc")) {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestMatch(t *testing.T) {
	fs, d, f := open(t)
	g, err := d.OpenFile("g", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fs.Set(Plan{Kind: Sync, Err: unix.EIO, Match: func(name string) bool { return name == "g" }})
	if err := f.Sync(); err != nil {
		t.Errorf("f: %v", err)
	}
	if err := g.Sync(); err != unix.EIO {
		t.Errorf("g: got %v, want EIO", err)
	}
}
