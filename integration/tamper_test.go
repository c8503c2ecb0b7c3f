package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The layout of a file, from cipher/FORMAT.md §4, for block size 4096.
const (
	blockSize = 4096
	entrySize = 72
	slots     = 56 // of a tag block
	firstSlot = 16 // of block 0: the header takes the first
)

// group is the number of the tag block of a block.
func group(block int64) int64 { return (block + firstSlot) / slots }

// bodyAt is where a block lies in the backing file.
func bodyAt(block int64) int64 { return 4096*(group(block)+1) + block*blockSize }

// tagAt is where a group's tag block lies.
func tagAt(g int64) int64 {
	if g == 0 {
		return 0
	}
	return 4096*g + (slots*g-firstSlot)*blockSize
}

// entryAt is where a block's entry lies.
func entryAt(block int64) int64 { return tagAt(group(block)) + entrySize*((block+firstSlot)%slots) }

// physical is the length of a backing file.
func physical(size int64) int64 {
	if size == 0 {
		return 4096
	}
	return 4096*(group((size-1)/blockSize)+1) + size
}

// backingOf finds the backing file of a file by its length, which the tests
// make unique.
func backingOf(t testing.TB, cipher string, size int64) string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(cipher, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".plyfs" {
			return filepath.SkipDir
		}
		if st, err := d.Info(); err == nil && st.Mode().IsRegular() && st.Size() == physical(size) {
			found = append(found, path)
		}
		return nil
	})
	check(t, err)
	if len(found) != 1 {
		t.Fatalf("%d backing files of %d bytes (a file of %d): %q", len(found), physical(size), size, found)
	}
	return found[0]
}

// edit changes bytes of a backing file in place.
func edit(t testing.TB, path string, f func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, f(b), 0))
}

func flip(at int64) func(b []byte) []byte {
	return func(b []byte) []byte { b[at] ^= 1; return b }
}

// swap exchanges two ranges.
func swap(b []byte, x, y, n int64) {
	t := slices.Clone(b[x : x+n])
	copy(b[x:], b[y:y+n])
	copy(b[y:], t)
}

// TestTamperedFiles changes the ciphertext of one file after another while
// nothing is mounted. Each block that was touched must answer EIO with a line
// in the log, all else must read as before.
func TestTamperedFiles(t *testing.T) {
	all := func(n int64) (l []int64) {
		for i := range n {
			l = append(l, i)
		}
		return l
	}
	const blocks = 75 // 40 in group 0, 35 in group 1
	last := all(blocks)[40:]
	// A file that is shorter than its size says may be refused as a whole.
	type row = struct {
		name  string
		edit  func(b []byte) []byte
		bad   []int64 // blocks that must fail; nil: none may
		whole bool    // or the whole file may
		quiet bool    // nobody need notice
	}
	table := []row{
		{name: "untouched", edit: func(b []byte) []byte { return b }, quiet: true},
		{name: "first byte of a body", edit: flip(bodyAt(5)), bad: []int64{5}},
		{name: "last byte of a body", edit: flip(bodyAt(5) + blockSize - 1), bad: []int64{5}},
		{name: "body of the last, short block", edit: flip(bodyAt(blocks - 1)), bad: []int64{blocks - 1}},
		{name: "block salt in an entry", edit: flip(entryAt(50)), bad: []int64{50}},
		{name: "n2 in an entry", edit: flip(entryAt(50) + 12), bad: []int64{50}},
		{name: "epoch in an entry", edit: flip(entryAt(50) + 27), bad: []int64{50}},
		{name: "sealed N1 and T1 in an entry", edit: flip(entryAt(50) + 30), bad: []int64{50}},
		{name: "T2 in an entry", edit: flip(entryAt(50) + 71), bad: []int64{50}},
		{name: "entry zeroed", edit: func(b []byte) []byte { clear(b[entryAt(3) : entryAt(3)+entrySize]); return b }, bad: []int64{3}},
		{name: "body zeroed", edit: func(b []byte) []byte { clear(b[bodyAt(3) : bodyAt(3)+blockSize]); return b }, bad: []int64{3}},
		{name: "body and entry zeroed", edit: func(b []byte) []byte {
			clear(b[bodyAt(3) : bodyAt(3)+blockSize])
			clear(b[entryAt(3) : entryAt(3)+entrySize])
			return b
		}, bad: []int64{3}},
		{name: "two bodies swapped", edit: func(b []byte) []byte { swap(b, bodyAt(1), bodyAt(2), blockSize); return b }, bad: []int64{1, 2}},
		{name: "two blocks swapped with their entries", edit: func(b []byte) []byte {
			swap(b, bodyAt(1), bodyAt(60), blockSize)
			swap(b, entryAt(1), entryAt(60), entrySize)
			return b
		}, bad: []int64{1, 60}},
		{name: "trailer of a tag block: magic", edit: flip(tagAt(1) + 4032), bad: last},
		{name: "trailer of a tag block: presence bits", edit: flip(tagAt(1) + 4032 + 15), bad: last},
		{name: "trailer of a tag block: MAC of layer 1", edit: flip(tagAt(1) + 4095 - 20), bad: last},
		{name: "trailer of a tag block: MAC of layer 2", edit: flip(tagAt(1) + 4095), bad: last},
		{name: "tag block zeroed", edit: func(b []byte) []byte { clear(b[tagAt(1) : tagAt(1)+4096]); return b }, bad: last},
		// The static header has a copy (FORMAT.md §6): one of the two will do.
		{name: "static header", edit: flip(100)},
		{name: "static header, MAC", edit: flip(511)},
		{name: "copy of the static header", edit: flip(1024 + 20), quiet: true},
		{name: "static header and its copy", edit: func(b []byte) []byte { b[100] ^= 1; b[1024+20] ^= 1; return b }, bad: all(blocks)},
		{name: "header: size", edit: flip(512 + 15), bad: all(blocks)},
		{name: "header, MAC", edit: flip(1023), bad: all(blocks)},
		{name: "header zeroed", edit: func(b []byte) []byte { clear(b[:1024]); return b }, bad: all(blocks)},
		{name: "first tag block zeroed", edit: func(b []byte) []byte { clear(b[:4096]); return b }, bad: all(blocks)},
		{name: "first trailer", edit: flip(4090), bad: all(blocks)[:40]},
		{name: "cut by one byte", edit: func(b []byte) []byte { return b[:len(b)-1] }, bad: []int64{blocks - 1}, whole: true},
		{name: "cut by a group", edit: func(b []byte) []byte { return b[:tagAt(1)] }, bad: last, whole: true},
		{name: "emptied", edit: func(b []byte) []byte { return nil }, bad: all(blocks)},
		{name: "everything zeroed", edit: func(b []byte) []byte { clear(b); return b }, bad: all(blocks)},
	}
	v := newVolume(t)
	v.mustMount(t)
	defer v.close(t)
	size := func(i int) int64 { return (blocks-1)*blockSize + 100 + int64(i) }
	name := func(i int) string { return filepath.Join(v.mnt, fmt.Sprintf("file%02d", i)) }
	for i := range table {
		touch(t, name(i), pattern(int(size(i)), uint64(i)))
	}
	v.mustUnmount(t)
	paths := make([]string, len(table))
	for i := range table {
		paths[i] = backingOf(t, v.cipher, size(i))
	}
	for i, c := range table {
		edit(t, paths[i], c.edit)
	}
	v.mustMount(t)
	for i, c := range table {
		t.Run(c.name, func(t *testing.T) {
			want := pattern(int(size(i)), uint64(i))
			wantLines := 1
			if c.quiet {
				wantLines = 0
			}
			logged := len(v.log())
			fd, openErr := unix.Open(name(i), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if openErr != nil {
				if len(c.bad) != blocks && !c.whole {
					t.Fatalf("open: %s", errName(openErr))
				}
				wantErr(t, "open", openErr, unix.EIO)
			} else {
				defer unix.Close(fd)
				// Block by block, backwards, so that no readahead helps.
				unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)
				b := make([]byte, blockSize)
				for k := int64(blocks - 1); k >= 0; k-- {
					n, err := unix.Pread(fd, b, k*blockSize)
					if slices.Contains(c.bad, k) {
						if err == nil {
							t.Fatalf("block %d: %d bytes, as written: %v; want EIO", k, n, bytes.Equal(b[:n], cut(want, k*blockSize, blockSize)))
						}
						wantErr(t, fmt.Sprint("block ", k), err, unix.EIO)
					} else if err != nil || !bytes.Equal(b[:n], cut(want, k*blockSize, blockSize)) {
						t.Fatalf("block %d: %d bytes, %s; want it as written", k, n, errName(err))
					}
				}
			}
			lines := v.complaints(logged, wantLines)
			if !c.quiet && len(lines) == 0 {
				t.Error("no line in the log")
			}
			if c.quiet && len(lines) > 0 {
				t.Errorf("a line in the log for nothing: %q", lines)
			}
			if t.Failed() {
				t.Logf("the log: %q", lines)
			}
		})
	}
	t.Run("a bad block can be overwritten whole, its file cut or removed", func(t *testing.T) {
		fd := open(t, name(1), unix.O_RDWR, 0) // block 5 is bad
		defer unix.Close(fd)
		want := pattern(blockSize, 99)
		if n, err := unix.Pwrite(fd, want, 5*blockSize); n != blockSize {
			t.Fatalf("overwriting: %d, %s", n, errName(err))
		}
		full := pattern(int(size(1)), 1)
		copy(full[5*blockSize:], want)
		wantContent(t, name(1), full)
		check(t, unix.Truncate(name(3), 10*blockSize))
		wantContent(t, name(3), pattern(int(size(3)), 3)[:10*blockSize])
		for i := range table {
			if err := unix.Unlink(name(i)); err != nil {
				t.Errorf("removing %q: %s", table[i].name, errName(err))
			}
		}
		wantNames(t, v.mnt)
	})
}

// complaints are the lines of the log above the level of information, from a
// position on. It is written in the background: a moment is waited for n.
func (v *volume) complaints(from, n int) []string {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var out []string
		for _, line := range strings.Split(v.log()[from:], "\n") {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				out = append(out, line)
			}
		}
		if len(out) >= n || time.Now().After(end) {
			return out
		}
	}
}

// TestTamperedTree goes for what is not a file's content.
func TestTamperedTree(t *testing.T) {
	v := newVolume(t)
	v.mustMount(t)
	defer v.close(t)
	path := func(s ...string) string { return filepath.Join(append([]string{v.mnt}, s...)...) }
	check(t, os.Mkdir(path("dir"), 0o755))
	touch(t, path("dir", "inside"), []byte("x"))
	check(t, os.Symlink("a target", path("link")))
	touch(t, path("attr"), pattern(7777, 1))
	check(t, unix.Setxattr(path("attr"), "user.a", []byte("value"), 0))
	check(t, os.Mkdir(path("other"), 0o755))
	touch(t, path("other", "moved"), pattern(8888, 2))
	touch(t, path("other", "renamed"), pattern(9999, 3))
	touch(t, path("fine"), []byte("fine"))
	v.mustUnmount(t)

	var link, dirid string
	filepath.WalkDir(v.cipher, func(p string, d os.DirEntry, err error) error {
		check(t, err)
		if d.Type()&os.ModeSymlink != 0 {
			link = p
		}
		if d.Name() == "plyfs.dirid" && filepath.Dir(p) != v.cipher && dirid == "" {
			if l, _ := os.ReadDir(filepath.Dir(p)); len(l) == 2 {
				dirid = p // of "dir", which holds one file
			}
		}
		return nil
	})
	if link == "" || dirid == "" {
		t.Fatalf("symlink %q, directory ID %q: not found in the ciphertext", link, dirid)
	}
	to, err := os.Readlink(link)
	check(t, err)
	changed := []byte(to)
	mid := len(changed) / 2
	if changed[mid] == 'A' {
		changed[mid] = 'B'
	} else {
		changed[mid] = 'A'
	}
	check(t, os.Remove(link))
	check(t, os.Symlink(string(changed), link))
	edit(t, dirid, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	attr := backingOf(t, v.cipher, 7777)
	for _, n := range xattrs(t, attr) {
		b, err := getxattr(t, attr, n)
		check(t, err)
		b[len(b)/2] ^= 1
		check(t, unix.Setxattr(attr, n, b, 0))
	}
	moved := backingOf(t, v.cipher, 8888)
	check(t, os.Rename(moved, filepath.Join(v.cipher, filepath.Base(moved))))
	renamed := backingOf(t, v.cipher, 9999)
	base := []byte(filepath.Base(renamed))
	base[len(base)/2] ^= 'a' ^ 'b'
	check(t, os.Rename(renamed, filepath.Join(filepath.Dir(renamed), strings.Map(func(r rune) rune {
		if strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", r) {
			return r
		}
		return 'Q'
	}, string(base)))))

	v.mustMount(t)
	logged := len(v.log())
	_, err = os.Readlink(path("link"))
	wantErr(t, "changed symlink", err, unix.EIO)
	_, err = getxattr(t, path("attr"), "user.a")
	wantErr(t, "changed attribute", err, unix.EIO)
	wantContent(t, path("attr"), pattern(7777, 1))
	_, err = os.ReadFile(path("dir", "inside"))
	wantErr(t, "file in a directory with a changed ID", err, unix.EIO)
	wantContent(t, path("fine"), []byte("fine"))
	// A name made for another directory, or for none, is no name here.
	for _, dir := range []string{path(), path("other")} {
		l, err := os.ReadDir(dir)
		if err != nil {
			wantErr(t, "listing", err, unix.EIO)
		}
		for _, e := range l {
			if e.Name() == "moved" || e.Name() == "renamed" || strings.ContainsRune(e.Name(), '\uFFFD') {
				t.Errorf("%q is listed in %s", e.Name(), filepath.Base(dir))
			}
		}
	}
	for _, p := range []string{path("moved"), path("other", "moved"), path("other", "renamed")} {
		_, err := os.ReadFile(p)
		wantErr(t, "misplaced "+filepath.Base(p), err, unix.ENOENT, unix.EIO)
	}
	if lines := v.complaints(logged, 3); len(lines) < 3 {
		t.Errorf("fewer than 3 lines in the log: %q", lines)
	}
}

// mountFails mounts with a volume's own arguments and returns the exit code;
// a mount that serves is an error.
func (v *volume) mountFails(t testing.TB, what string, want ...int) {
	t.Helper()
	err := v.mount()
	if err == nil {
		t.Errorf("%s: it mounts", what)
		v.mustUnmount(t)
		return
	}
	for _, code := range want {
		if strings.HasPrefix(err.Error(), fmt.Sprintf("mount ended with %d:", code)) {
			if !strings.Contains(err.Error(), "plyfs: error:") {
				t.Errorf("%s: no \"plyfs: error:\" in: %v", what, err)
			}
			return
		}
	}
	t.Errorf("%s: want exit code %v, got: %v", what, want, err)
}

// TestTamperedConfig edits plyfs.json and its copy.
func TestTamperedConfig(t *testing.T) {
	v := newMounted(t)
	touch(t, filepath.Join(v.mnt, "f"), []byte("x"))
	v.mustUnmount(t)
	files := []string{filepath.Join(v.cipher, "plyfs.json"), filepath.Join(v.cipher, "plyfs.json.bak")}
	var orig [2][]byte
	for i, f := range files {
		b, err := os.ReadFile(f)
		check(t, err)
		orig[i] = b
	}
	restore := func() {
		for i, f := range files {
			check(t, os.WriteFile(f, orig[i], 0o644))
		}
	}
	both := func(f func([]byte) []byte) {
		for i, name := range files {
			check(t, os.WriteFile(name, f(slices.Clone(orig[i])), 0o644))
		}
	}
	for at := 0; at < len(orig[0]); at += 1 + len(orig[0])/40 {
		both(func(b []byte) []byte { b[min(at, len(b)-1)] ^= 1; return b })
		v.mountFails(t, fmt.Sprintf("byte %d flipped", at), 3, 4, 6, 7)
	}
	both(func(b []byte) []byte { return b[:len(b)/2] })
	v.mountFails(t, "cut in half", 4, 6)
	both(func(b []byte) []byte { return nil })
	v.mountFails(t, "empty", 4, 6)
	both(func(b []byte) []byte { return append([]byte(`{"x":1,`), b[1:]...) })
	v.mountFails(t, "unknown field", 4, 6)
	for _, f := range files {
		check(t, os.Remove(f))
	}
	v.mountFails(t, "removed", 6)
	restore()
	v.opts = []string{"-o", "layers=1"}
	v.mountFails(t, "layers=1 asked of a volume of two", 12)
	v.opts = nil

	// One good copy of the two is enough.
	for i, f := range files {
		for what, b := range map[string][]byte{"damaged": append([]byte("x"), orig[i]...), "missing": nil} {
			restore()
			if b == nil {
				check(t, os.Remove(f))
			} else {
				check(t, os.WriteFile(f, b, 0o644))
			}
			if err := v.mount(); err != nil {
				t.Errorf("%s %s: %v", filepath.Base(f), what, err)
				continue
			}
			wantContent(t, filepath.Join(v.mnt, "f"), []byte("x"))
			v.mustUnmount(t)
		}
	}
	restore()
	v.mustMount(t)
	wantContent(t, filepath.Join(v.mnt, "f"), []byte("x"))
}

// TestWrongKeys opens a volume with key stores that are not its own.
func TestWrongKeys(t *testing.T) {
	v := newMounted(t)
	touch(t, filepath.Join(v.mnt, "f"), []byte("x"))
	v.mustUnmount(t)
	own, foreign := v.keys, filepath.Join(v.root, "foreign")
	mustPlyfs(t, "keystore", "init", "--keystore", foreign)

	v.keys = foreign
	v.mountFails(t, "both stores of another", 3)
	v.keys = own
	for _, layer := range []string{"data", "infra"} {
		v.opts = []string{"--" + layer + "-keystore", filepath.Join(foreign, layer+".store")}
		v.mountFails(t, "the "+layer+" store of another", 3)
		v.opts = []string{"--" + layer + "-keystore", filepath.Join(v.root, "missing")}
		v.mountFails(t, "no "+layer+" store", 6)
		other := map[string]string{"data": "infra", "infra": "data"}[layer]
		v.opts = []string{"--" + layer + "-keystore", filepath.Join(own, other+".store")}
		v.mountFails(t, "the "+other+" store in place of the "+layer+" store", 1, 2, 3, 4)
	}
	v.opts = nil

	// A store that was damaged, its key file exchanged, or open to others.
	for _, layer := range []string{"data", "infra"} {
		store := filepath.Join(own, layer+".store")
		b, err := os.ReadFile(store)
		check(t, err)
		for _, at := range []int{0, len(b) / 2, len(b) - 1} {
			c := slices.Clone(b)
			c[at] ^= 1
			check(t, os.WriteFile(store, c, 0o600))
			v.mountFails(t, fmt.Sprintf("%s store, byte %d flipped", layer, at), 3, 4, 6, 7)
		}
		check(t, os.WriteFile(store, b[:len(b)/2], 0o600))
		v.mountFails(t, layer+" store cut", 3, 4, 6)
		check(t, os.WriteFile(store, b, 0o600))
		keys, err := filepath.Glob(filepath.Join(own, layer+"*.key"))
		check(t, err)
		if len(keys) != 1 {
			t.Fatalf("key files of the %s store: %q", layer, keys)
		}
		key, err := os.ReadFile(keys[0])
		check(t, err)
		other, err := os.ReadFile(filepath.Join(foreign, filepath.Base(keys[0])))
		check(t, err)
		check(t, os.WriteFile(keys[0], other, 0o600))
		v.mountFails(t, "key file of another's "+layer+" store", 3)
		check(t, os.WriteFile(keys[0], key, 0o600))
		check(t, os.Chmod(keys[0], 0o644))
		v.mountFails(t, layer+" key file open to others", 1, 2, 3)
		check(t, os.Chmod(keys[0], 0o600))
	}
	v.mustMount(t)
	wantContent(t, filepath.Join(v.mnt, "f"), []byte("x"))
}
