package volume

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/journal"
)

// grow fills a volume with a little tree and returns the backing path of each
// plaintext path.
func (v *testVolume) grow(paths ...string) map[string]string {
	v.t.Helper()
	e := engine{v}
	for _, p := range paths {
		var err error
		if strings.HasSuffix(p, "/") {
			err = e.Mkdir(strings.TrimSuffix(p, "/"), 0o755)
		} else {
			var f interface{ Close() error }
			if f, err = e.Create(p, 0o644); err == nil {
				f.Close()
			}
		}
		if err != nil {
			v.t.Fatalf("%s: %v", p, err)
		}
	}
	back := map[string]string{}
	for _, p := range paths {
		p = strings.TrimSuffix(p, "/")
		back[p] = v.backing(p)
	}
	return back
}

// backing returns where a path lies in the ciphertext.
func (v *testVolume) backing(path string) string {
	v.t.Helper()
	at := v.back
	dir := RootID
	for name := range strings.SplitSeq(path, "/") {
		n, d, err := v.dirOf(dir)
		if err != nil {
			v.t.Fatal(err)
		}
		b, err := v.nameIn(n, name)
		v.dirs.done(d)
		if err != nil {
			v.t.Fatal(err)
		}
		at = filepath.Join(at, b.name)
		e, err := v.Lookup(dir, name)
		if err != nil {
			v.t.Fatal(err)
		}
		defer v.Forget(e.ID, 1)
		dir = e.ID
	}
	return at
}

func listing(v *testVolume, path string) []string {
	v.t.Helper()
	names, err := engine{v}.List(path)
	if err != nil {
		v.t.Fatalf("listing %q: %v", path, err)
	}
	return names
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostileEntriesAreNeitherListedNorFound(t *testing.T) {
	v := newVolume(t, 4096)
	back := v.grow("dir/", "dir/file", "other/", "other/file")
	dir := back["dir"]
	// Another directory's name, garbage, wrong types under good names, a long
	// name without and with a wrong sidecar.
	must(t, os.WriteFile(filepath.Join(dir, filepath.Base(back["other/file"])), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "garbage"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "-_-_"+strings.Repeat("A", 200)), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, cipher.LongName("a")), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, cipher.LongName("b")), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, cipher.LongName("b")+sidecarTail), []byte("c"), 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "plyfs.long.x")))
	must(t, unix.Mkfifo(filepath.Join(dir, cipher.LongName("c")+sidecarTail), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, cipher.LongName("c")), nil, 0o600))
	if got := listing(v, "dir"); len(got) != 1 || got[0] != "file" {
		t.Errorf("listed %q, want file alone", got)
	}
	if err := (engine{v}).Rmdir("dir"); err != unix.ENOTEMPTY {
		t.Errorf("rmdir: got %v, want ENOTEMPTY", err)
	}
}

func TestWrongTypesAreErrors(t *testing.T) {
	for what, replace := range map[string]func(path string) error{
		"a symlink for a file":      func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a fifo for a file":         func(p string) error { return unix.Mkfifo(p, 0o600) },
		"plain text for a file":     func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("plain"), 2000), 0o600) },
		"an empty file":             func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"a directory without an ID": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			v := newVolume(t, 4096)
			path := v.grow("name")["name"]
			v.reopen()
			must(t, os.Remove(path))
			must(t, replace(path))
			e := engine{v}
			st, err := e.Stat("name")
			if err != nil && !isDamage(err) {
				t.Errorf("stat: got %v, want success or damage", err)
			}
			if err == nil {
				v.useAnyWay(st)
			}
			if err := e.Unlink("name"); err != nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				t.Errorf("cannot be removed: %v", err)
			}
		})
	}
}

// useAnyWay opens "name" as what stat says it is and wants damage.
func (v *testVolume) useAnyWay(st Stat) {
	v.t.Helper()
	n, err := v.Lookup(RootID, "name")
	if err != nil {
		v.t.Fatal(err)
	}
	defer v.Forget(n.ID, 1)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		_, err = v.Volume.Open(n.ID, OpenOptions{})
	case unix.S_IFDIR:
		_, err = v.OpenDir(n.ID)
	case unix.S_IFLNK:
		_, err = v.Volume.Readlink(n.ID)
	default:
		return // a fifo is a fifo
	}
	if !isDamage(err) {
		v.t.Errorf("got %v, want damage", err)
	}
}

func isDamage(err error) bool {
	for _, e := range []error{ErrDamaged, cipher.ErrAuth, cipher.ErrZero, cipher.ErrMagic, cipher.ErrVersion} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err != nil && strings.Contains(err.Error(), "damaged")
}

func TestDirectoryIDInUseTwice(t *testing.T) {
	v := newVolume(t, 4096)
	back := v.grow("one/", "two/", "one/file")
	v.reopen()
	id, err := os.ReadFile(filepath.Join(back["one"], dirIDName))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(back["two"], dirIDName), id, 0o600))
	one, err := v.Lookup(RootID, "one")
	must(t, err)
	two, err := v.Lookup(RootID, "two")
	must(t, err)
	if _, err := v.Lookup(one.ID, "file"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Lookup(two.ID, "file"); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
}

func TestFileIDInUseTwice(t *testing.T) {
	v := newVolume(t, 4096)
	back := v.grow("one", "two")
	v.reopen()
	content, err := os.ReadFile(back["one"])
	must(t, err)
	must(t, os.WriteFile(back["two"], content, 0o600))
	one, err := v.Lookup(RootID, "one")
	must(t, err)
	two, err := v.Lookup(RootID, "two")
	must(t, err)
	h, err := v.Volume.Open(one.ID, OpenOptions{})
	must(t, err)
	if _, err := v.Volume.Open(two.ID, OpenOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
	must(t, h.Close())
	h, err = v.Volume.Open(two.ID, OpenOptions{}) // a copy alone is the file
	must(t, err)
	must(t, h.Close())
}

func TestMissingDirectoryID(t *testing.T) {
	v := newVolume(t, 4096)
	back := v.grow("dir/", "dir/file")
	v.reopen()
	must(t, os.Remove(filepath.Join(back["dir"], dirIDName)))
	if _, err := (engine{v}).List("dir"); err == nil {
		t.Error("a directory without an ID was listed")
	}
	if _, err := (engine{v}).Create("dir/new", 0o600); err == nil {
		t.Error("a file was made in a directory without an ID")
	}
}

func TestSidecarLifeCycle(t *testing.T) {
	v := newVolume(t, 4096)
	e := engine{v}
	long, longer := strings.Repeat("a", 200), strings.Repeat("b", 255)
	v.grow("dir/", "dir/"+long)
	dir := v.backing("dir")
	sidecars := func() (n int) {
		m, err := filepath.Glob(filepath.Join(dir, "*"+sidecarTail))
		must(t, err)
		return len(m)
	}
	if sidecars() != 1 {
		t.Fatalf("%d sidecars after create, want 1", sidecars())
	}
	must(t, e.Rename("dir/"+long, "dir/"+longer, 0))
	must(t, e.Link("dir/"+longer, "dir/short"))
	if sidecars() != 1 {
		t.Errorf("%d sidecars after rename, want 1", sidecars())
	}
	if err := e.made(v.Volume.Mkdir(v.id("dir"), longer, Creator{})); err != unix.EEXIST {
		t.Errorf("mkdir over a long name: got %v, want EEXIST", err)
	}
	if sidecars() != 1 {
		t.Errorf("%d sidecars after a failed mkdir, want 1", sidecars())
	}
	// A lost one is made again by a lookup, an orphan does not keep a directory.
	m, _ := filepath.Glob(filepath.Join(dir, "*"+sidecarTail))
	must(t, os.Remove(m[0]))
	if _, err := e.Stat("dir/" + longer); err != nil {
		t.Fatal(err)
	}
	if got := listing(v, "dir"); len(got) != 2 {
		t.Errorf("listed %d names, want 2", len(got))
	}
	must(t, e.Unlink("dir/"+longer))
	must(t, e.Unlink("dir/short"))
	if sidecars() != 0 {
		t.Errorf("%d sidecars after unlink, want none", sidecars())
	}
	must(t, os.WriteFile(m[0], []byte("orphan"), 0o600))
	must(t, e.Rmdir("dir"))
	if left, _ := os.ReadDir(filepath.Join(v.back, metaName, tmpName)); len(left) != 0 {
		t.Errorf("%d leftovers in tmp", len(left))
	}
}

// id returns the node of a path, known for the rest of the test.
func (v *testVolume) id(path string) (id NodeID) {
	v.t.Helper()
	id = RootID
	for name := range strings.SplitSeq(path, "/") {
		e, err := v.Lookup(id, name)
		if err != nil {
			v.t.Fatal(err)
		}
		id = e.ID
	}
	return id
}

func TestFarSymlinkTargetsGoWithTheLastName(t *testing.T) {
	v := newVolume(t, 4096)
	e := engine{v}
	target := strings.Repeat("long/", 800)
	links := func() int {
		m, err := os.ReadDir(filepath.Join(v.back, metaName, linksName))
		must(t, err)
		return len(m)
	}
	must(t, e.Symlink(target, "a"))
	must(t, e.Link("a", "b"))
	v.reopen()
	e = engine{v}
	if got, err := e.Readlink("b"); got != target || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(target))
	}
	must(t, e.Unlink("a"))
	if links() != 1 {
		t.Errorf("%d targets, want 1", links())
	}
	must(t, e.Symlink("short", "c"))
	must(t, e.Rename("c", "b", 0))
	if links() != 0 {
		t.Errorf("%d targets after the last name went, want none", links())
	}
}

func TestTmpIsEmptiedAtOpen(t *testing.T) {
	v := newVolume(t, 4096)
	tmp := filepath.Join(v.back, metaName, tmpName)
	must(t, os.MkdirAll(filepath.Join(tmp, "a", "b"), 0o700))
	must(t, os.WriteFile(filepath.Join(tmp, "a", "b", "f"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(tmp, "f"), nil, 0o600))
	v.reopen()
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("%d leftovers in tmp", len(left))
	}
}

func TestUncleanStop(t *testing.T) {
	v := newVolume(t, 4096)
	back := v.grow("empty", "grown", "dir/", "dir/lost")
	f, err := engine{v}.Open("grown", false)
	must(t, err)
	must(t, f.Write(0, 0, []byte("content")))
	must(t, f.Close())
	v.abandon()
	// As a kill in the midst of a write, or of a create, leaves them.
	must(t, os.Truncate(back["grown"], 100_000))
	must(t, os.Truncate(back["dir/lost"], 0))
	v.open()
	if !v.unclean.Load() {
		t.Fatal("the volume counts as cleanly unmounted")
	}
	e := engine{v}
	for path, want := range map[string]int64{"grown": 7, "empty": 0, "dir/lost": 0} {
		if st, err := e.Stat(path); err != nil || st.Size != want {
			t.Errorf("%s: size %d, %v, want %d", path, st.Size, err, want)
		}
	}
	v.walk.Wait()
	if v.unclean.Load() {
		t.Error("the volume stays unclean after all files were looked at")
	}
	v.reopen()
	if v.unclean.Load() {
		t.Error("the volume is unclean after a clean close")
	}
	must(t, os.Truncate(back["dir/lost"], 0))
	if _, err := (engine{v}).Open("dir/lost", false); err == nil {
		t.Error("a file that lost its header in a clean volume was opened")
	}
}

// abandon ends the volume as a kill does.
func (v *testVolume) abandon() {
	close(v.stop)
	v.walk.Wait()
	v.workers.Wait()
	must(v.t, v.journal.Close(false))
	v.closeMeta()
	v.dirs.free(0)
	v.Volume = nil
}

func TestReadOnlyChangesNothing(t *testing.T) {
	v := newVolume(t, 4096)
	v.grow("dir/", "dir/file", "file")
	v.close()
	before := snapshot(t, v.back)
	v.config.ReadOnly = true
	v.open()
	e := engine{v}
	for what, err := range map[string]error{
		"mkdir":    e.Mkdir("new", 0o700),
		"unlink":   e.Unlink("file"),
		"rmdir":    e.Rmdir("dir"),
		"rename":   e.Rename("file", "new", 0),
		"link":     e.Link("file", "new"),
		"symlink":  e.Symlink("t", "new"),
		"chmod":    e.Chmod("file", 0o600),
		"truncate": e.Truncate("file", 1),
		"setxattr": e.SetXattr("file", "user.a", nil, 0),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: got %v, want EROFS", what, err)
		}
	}
	f, err := e.Open("dir/file", false)
	must(t, err)
	if err := f.Write(0, 0, []byte("x")); err != unix.EROFS {
		t.Errorf("write: got %v, want EROFS", err)
	}
	must(t, f.Close())
	v.close()
	if after := snapshot(t, v.back); after != before {
		t.Errorf("the ciphertext changed: got\n%s\nwant\n%s", after, before)
	}
}

// snapshot tells names, sizes and change times below dir.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(strings.TrimPrefix(path, dir) + " " + info.ModTime().String() + " " + info.Mode().String() + "\n")
		}
		return err
	}))
	return b.String()
}

func TestOpenErrors(t *testing.T) {
	t.Run("not a volume", func(t *testing.T) {
		v := &testVolume{t: t, back: t.TempDir(), cipher: newCipher(t, 4096)}
		if _, err := Open(Config{Root: v.root(), Cipher: v.cipher}); !errors.Is(err, ErrNotVolume) {
			t.Errorf("got %v, want ErrNotVolume", err)
		}
		if _, err := Lock(v.root(), 0); !errors.Is(err, ErrNotVolume) {
			t.Errorf("lock: got %v, want ErrNotVolume", err)
		}
	})
	t.Run("formatted twice", func(t *testing.T) {
		v := newVolume(t, 4096)
		if err := Format(v.root(), v.cipher); !errors.Is(err, ErrExists) {
			t.Errorf("got %v, want ErrExists", err)
		}
	})
	t.Run("other keys", func(t *testing.T) {
		v := newVolume(t, 4096)
		v.close()
		other, err := cipher.NewVolume(v.cipher.Params(), 1, cipher.Keys{Data: [32]byte{9}, Infra: [32]byte{2}}, nil)
		must(t, err)
		if _, err := Open(Config{Root: v.root(), Cipher: other}); !errors.Is(err, journal.ErrTampered) {
			t.Errorf("got %v, want journal.ErrTampered", err)
		}
	})
	t.Run("root ID altered", func(t *testing.T) {
		v := newVolume(t, 4096)
		v.close()
		path := filepath.Join(v.back, dirIDName)
		id, err := os.ReadFile(path)
		must(t, err)
		id[len(id)-1] ^= 1
		must(t, os.WriteFile(path, id, 0o600))
		if _, err := Open(Config{Root: v.root(), Cipher: v.cipher}); !errors.Is(err, cipher.ErrAuth) {
			t.Errorf("got %v, want cipher.ErrAuth", err)
		}
	})
	t.Run("locked", func(t *testing.T) {
		v := newVolume(t, 4096)
		l, err := Lock(v.root(), 0)
		must(t, err)
		if _, err := Lock(v.root(), 0); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		must(t, l.Close())
		l, err = Lock(v.root(), 0)
		must(t, err)
		must(t, l.Close())
	})
}

func TestLogHoldsNoPlaintext(t *testing.T) {
	var buf bytes.Buffer
	v := newVolume(t, 4096)
	secret := "seCretName"
	back := v.grow(secret+"/", secret+"/"+secret, secret+"/"+secret+"2")
	must(t, engine{v}.SetXattr(secret+"/"+secret, "user."+secret, []byte(secret), 0))
	must(t, engine{v}.Symlink(secret, "link"))
	link := v.backing("link")
	v.config.Log = slog.New(slog.NewTextHandler(&buf, nil))
	v.reopen()
	b, err := os.ReadFile(back[secret+"/"+secret])
	must(t, err)
	b[100] ^= 1
	must(t, os.WriteFile(back[secret+"/"+secret], b, 0o600))
	must(t, os.WriteFile(filepath.Join(back[secret], "foreign"), nil, 0o600))
	must(t, os.Remove(link))
	must(t, os.Symlink("notsealed", link))
	e := engine{v}
	e.Open(secret+"/"+secret, false)
	e.Xattrs(secret + "/" + secret)
	e.List(secret)
	e.Readlink("link")
	if buf.Len() == 0 {
		t.Error("nothing was logged")
	}
	if strings.Contains(buf.String(), secret) {
		t.Errorf("plaintext in the log:\n%s", buf.String())
	}
}
