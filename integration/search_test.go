package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needles are byte strings that must not be found where nothing but sealed
// bytes should be: each marker as it is, in base64 at each of the three places
// it may start at, in hexadecimal, and reversed in case.
func needles(markers ...string) [][]byte {
	var all [][]byte
	for _, m := range markers {
		b := []byte(m)
		all = append(all, b, []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b))),
			bytes.ToLower(b), bytes.ToUpper(b))
		for shift := range 3 {
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				s := enc.EncodeToString(append(make([]byte, shift), b...))
				// What the bytes before and after the marker reach into is cut.
				all = append(all, []byte(s[(shift*8+5)/6:len(s)-2]))
			}
		}
	}
	return all
}

// findNeedles searches names, contents, symlink targets and attributes of all
// that lies below dir and says where something was found.
func findNeedles(t testing.TB, dir string, all [][]byte) (found []string) {
	t.Helper()
	look := func(where string, b []byte) {
		for _, n := range all {
			if i := bytes.Index(b, n); i >= 0 {
				found = append(found, where+" at byte "+string(b[i:i+min(len(n), 40)]))
			}
		}
	}
	files, total := 0, int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		look("name "+path, []byte(strings.TrimPrefix(path, dir)))
		list := make([]byte, 65536)
		if n, err := unix.Llistxattr(path, list); err == nil {
			for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
				look("attribute's name of "+path, []byte(name))
				if v, err := getxattr(t, path, name); err == nil {
					look("attribute's value of "+path, v)
				}
			}
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			look("target of "+path, []byte(to))
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			look("content of "+path, b)
			files++
			total += int64(len(b))
			return err
		}
		return nil
	})
	check(t, err)
	t.Logf("searched %d files, %d bytes", files, total)
	return found
}

// TestNoPlaintext puts a marker into everything a user can put bytes into and
// looks for it in the ciphertext directory, mounted and not.
func TestNoPlaintext(t *testing.T) {
	const marker = "Zebra-Crossing.4711-Heliotrope"
	all := needles(marker)

	t.Run("control", func(t *testing.T) {
		dir := filepath.Join(env.scratch, "markers")
		check(t, os.Mkdir(dir, 0o755))
		defer os.RemoveAll(dir)
		plantMarkers(t, dir, marker)
		got := len(findNeedles(t, dir, all))
		if got < 10 {
			t.Errorf("found %d markers in the plain directory: the search is blind", got)
		}
		enc := base64.StdEncoding.EncodeToString([]byte("xx" + marker + "yyy"))
		check(t, os.WriteFile(filepath.Join(dir, "encoded"), []byte(enc), 0o644))
		if now := len(findNeedles(t, dir, all)); now <= got {
			t.Error("the search does not see base64")
		}
	})
	for name, args := range map[string][]string{"two layers": nil, "one layer": {"--single-layer"}, "64 KiB": {"--block-size", "65536"}} {
		t.Run(name, func(t *testing.T) {
			v := newMounted(t, args...)
			plantMarkers(t, v.mnt, marker)
			for _, f := range findNeedles(t, v.cipher, all) {
				t.Errorf("mounted: %s", f)
			}
			v.mustUnmount(t)
			for _, f := range findNeedles(t, v.cipher, all) {
				t.Errorf("unmounted: %s", f)
			}
			if strings.Contains(v.log(), marker) {
				t.Error("the marker is in the log")
			}
			v.mustMount(t)
			wantContent(t, filepath.Join(v.mnt, "content"), bytes.Repeat([]byte(marker), 5000))
		})
	}
}

func plantMarkers(t testing.TB, dir, marker string) {
	t.Helper()
	path := func(s string) string { return filepath.Join(dir, s) }
	long := strings.Repeat(marker, 8)
	check(t, os.WriteFile(path("content"), bytes.Repeat([]byte(marker), 5000), 0o644))
	check(t, os.WriteFile(path("short"), []byte(marker), 0o644))
	check(t, os.WriteFile(path(marker), nil, 0o644))
	check(t, os.WriteFile(path(long), []byte("x"), 0o644))
	check(t, os.MkdirAll(path("dir-"+marker+"/"+long), 0o755))
	check(t, os.Symlink(marker, path("link")))
	check(t, os.Symlink(strings.Repeat(marker+"/", 120), path("longlink")))
	check(t, unix.Setxattr(path("short"), "user."+marker, []byte("x"), 0))
	check(t, unix.Setxattr(path("short"), "user.value", []byte(marker), 0))
	check(t, unix.Setxattr(path("short"), "trusted.value", []byte(marker), 0))
	check(t, unix.Mkfifo(path("fifo-"+marker), 0o644))
	// Through a mapping, direct, appended, in a hole, overwritten, removed.
	fd := open(t, path("other"), unix.O_CREAT|unix.O_RDWR|unix.O_APPEND, 0o644)
	defer unix.Close(fd)
	unix.Write(fd, []byte(marker))
	unix.Write(fd, make([]byte, 20000))
	m, err := unix.Mmap(fd, 0, 20000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	copy(m[9000:], marker)
	check(t, unix.Msync(m, unix.MS_SYNC))
	check(t, unix.Munmap(m))
	d := open(t, path("direct"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	defer unix.Close(d)
	b := aligned(8192)
	copy(b, bytes.Repeat([]byte(marker), 200))
	unix.Pwrite(d, b, 1<<20)
	check(t, os.WriteFile(path("gone-"+marker), []byte(marker), 0o644))
	check(t, os.Remove(path("gone-"+marker)))
	check(t, os.WriteFile(path("before"), []byte(marker), 0o644))
	check(t, os.Rename(path("before"), path("after-"+marker)))
	check(t, unix.Fsync(fd))
	check(t, unix.Fsync(d))
}
