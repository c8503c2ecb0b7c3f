package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// TestFailuresAtEveryCall runs each operation with its first, second, ... call
// of the backing side failing. What it leaves must be the state before or
// after, with nothing left over, readable after the next mount.
func TestFailuresAtEveryCall(t *testing.T) {
	long, far := strings.Repeat("n", 200), strings.Repeat("t/", 2000)
	for name, op := range map[string]func(e engine) error{
		"create": func(e engine) error {
			f, err := e.Create("new", 0o600)
			if err == nil {
				f.Close()
			}
			return err
		},
		"create long": func(e engine) error {
			f, err := e.Create(long, 0o600)
			if err == nil {
				f.Close()
			}
			return err
		},
		"mkdir":           func(e engine) error { return e.Mkdir("new", 0o755) },
		"mkdir long":      func(e engine) error { return e.Mkdir(long, 0o755) },
		"symlink":         func(e engine) error { return e.Symlink("t", "new") },
		"far symlink":     func(e engine) error { return e.Symlink(far, "new") },
		"mkfifo":          func(e engine) error { return e.Mkfifo("new", 0o600) },
		"link":            func(e engine) error { return e.Link("file", long) },
		"rename":          func(e engine) error { return e.Rename("file", long, 0) },
		"rename over":     func(e engine) error { return e.Rename("file", "other", 0) },
		"rename over dir": func(e engine) error { return e.Rename("dir", "empty", 0) },
		"exchange":        func(e engine) error { return e.Rename("file", "dir", unix.RENAME_EXCHANGE) },
		"unlink":          func(e engine) error { return e.Unlink("file") },
		"rmdir":           func(e engine) error { return e.Rmdir("empty") },
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []faultfs.Kind{faultfs.Write, faultfs.Sync, faultfs.DirSync, faultfs.Name, faultfs.Open, faultfs.Attr} {
				for skip := range 20 {
					if !failOnce(t, op, faultfs.Plan{Kind: kind, Skip: skip, Times: 1, Err: unix.ENOSPC}) {
						break
					}
				}
			}
		})
	}
}

// failOnce runs op under a plan and reports whether the plan applied.
func failOnce(t *testing.T, op func(e engine) error, plan faultfs.Plan) bool {
	t.Helper()
	v := &testVolume{t: t, back: filepath.Join(t.TempDir(), "back"), cipher: newCipher(t, 4096)}
	must(t, os.Mkdir(v.back, 0o755))
	root := v.root()
	must(t, Format(root, v.cipher))
	faults := faultfs.New(root)
	var err error
	v.Volume, err = Open(Config{Root: faults.Root(), Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)})
	must(t, err)
	v.grow("file", "other", "dir/", "dir/inside", "empty/")
	e := engine{v}
	before := strings.Join(treeOf(e, ""), " ")

	faults.Set(plan)
	err = op(e)
	faults.Clear()
	hit := faults.Hits() > 0

	after := strings.Join(treeOf(e, ""), " ")
	if err != nil && after != before && plan.Kind != faultfs.Name {
		t.Errorf("%v failure %d: %v, but the tree became %s from %s", plan.Kind, plan.Skip, err, after, before)
	}
	v.reopen()
	if again := strings.Join(treeOf(engine{v}, ""), " "); again != after {
		t.Errorf("%v failure %d: the tree is %s after a mount, was %s", plan.Kind, plan.Skip, again, after)
	}
	for _, d := range []string{tmpName} {
		if left, _ := os.ReadDir(filepath.Join(v.back, metaName, d)); len(left) != 0 {
			t.Errorf("%v failure %d: %d leftovers in %s", plan.Kind, plan.Skip, len(left), d)
		}
	}
	v.close()
	return hit
}

// treeOf lists a tree with types, and opens every file in it.
func treeOf(e engine, dir string) (tree []string) {
	names, err := e.List(dir)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", dir, err)}
	}
	for _, name := range names {
		p := strings.TrimPrefix(dir+"/"+name, "/")
		st, err := e.Stat(p)
		line := fmt.Sprintf("%.9s:%o:%d", p, st.Mode&unix.S_IFMT, st.Size)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			var f interface{ Close() error }
			if f, err = e.Open(p, false); err == nil {
				err = f.Close()
			}
		}
		if err != nil {
			line += " " + err.Error()
		}
		tree = append(tree, line)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			tree = append(tree, treeOf(e, p)...)
		}
	}
	return tree
}
