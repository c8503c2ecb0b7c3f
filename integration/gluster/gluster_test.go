package gluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/integration/cell"
)

// daemonOf is the process that serves a mountpoint.
func daemonOf(mnt string) (int, error) {
	out, err := exec.Command(env.bin, "status", "--json", mnt).Output()
	if err != nil {
		return 0, fmt.Errorf("status: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		word, err := d.Token()
		if err != nil {
			return 0, fmt.Errorf("status names no process: %w", err)
		}
		if word == "pid" {
			var pid int
			err := d.Decode(&pid)
			return pid, err
		}
	}
}

// A volume does on GlusterFS what it does on a disk.
func TestModel(t *testing.T) {
	h := newHost(t, "model")
	h.must(command(env.bin, "init", h.volume("model")))
	h.mount("model")
	m := newModel(t, h.mnt, 20261128)
	for range 3 {
		for range 150 {
			m.step()
		}
		m.compare()
		h.umount()
		h.mount("model")
		m.compare()
	}
}

// What a network filesystem may lack.
func TestUnusualCalls(t *testing.T) {
	h := newHost(t, "calls")
	h.must(command(env.bin, "init", h.volume("calls")))
	h.mount("calls")
	at := func(name string) string { return filepath.Join(h.mnt, name) }

	h.must(os.WriteFile(at("a"), []byte("a"), 0o600))
	h.must(os.WriteFile(at("b"), []byte("b"), 0o600))
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, at(from), unix.AT_FDCWD, at(to), flags)
	}
	if err := rename("a", "b", unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("rename to a name in use, NOREPLACE: %v", err)
	}
	h.must(rename("a", "c", unix.RENAME_NOREPLACE))
	// GlusterFS exchanges nothing, and says so.
	if err := rename("b", "c", unix.RENAME_EXCHANGE); err != unix.EINVAL {
		t.Errorf("exchange: %v, want EINVAL", err)
	}
	if b, err := os.ReadFile(at("c")); string(b) != "a" || err != nil {
		t.Errorf("after that: %q, %v", b, err)
	}

	h.must(os.MkdirAll(at("full/sub"), 0o755))
	h.must(os.Mkdir(at("empty"), 0o755))
	h.must(unix.Rename(at("full"), at("empty"))) // os.Rename refuses it
	if _, err := os.Stat(at("empty/sub")); err != nil {
		t.Errorf("a directory that took an empty one's place: %v", err)
	}
	h.must(os.Mkdir(at("other"), 0o755))
	if err := unix.Rename(at("other"), at("empty")); err != unix.ENOTEMPTY {
		t.Errorf("rename over a directory that is not empty: %v", err)
	}

	fd, err := unix.Open(h.mnt, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == nil {
		_, err = unix.Write(fd, []byte("unnamed"))
		h.must(err)
		h.must(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, at("named"), unix.AT_SYMLINK_FOLLOW))
		unix.Close(fd)
		if b, err := os.ReadFile(at("named")); string(b) != "unnamed" || err != nil {
			t.Errorf("an unnamed file that got a name: %q, %v", b, err)
		}
	} else if !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("O_TMPFILE: %v", err)
	}

	f, err := os.OpenFile(at("holes"), os.O_CREATE|os.O_RDWR, 0o600)
	h.must(err)
	defer f.Close()
	h.must(unix.Fallocate(int(f.Fd()), 0, 0, 1<<20))
	_, err = f.WriteAt(bytes.Repeat([]byte{7}, 1<<20), 0)
	h.must(err)
	h.must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<18, 1<<18))
	got := make([]byte, 1<<20)
	_, err = f.ReadAt(got, 0)
	h.must(err)
	want := append(append(bytes.Repeat([]byte{7}, 1<<18), make([]byte, 1<<18)...), bytes.Repeat([]byte{7}, 1<<19)...)
	if !bytes.Equal(got, want) {
		t.Error("a hole that was punched reads otherwise")
	}
	h.must(unix.Setxattr(at("c"), "user.note", []byte("x"), 0))
	h.must(os.Link(at("c"), at("d")))
	value := make([]byte, 8)
	if n, err := unix.Getxattr(at("d"), "user.note", value); err != nil || string(value[:n]) != "x" {
		t.Errorf("attribute by another link: %q, %v", value[:max(n, 0)], err)
	}
	h.must(os.Symlink(strings.Repeat("long/", 300), at("link")))
	if to, err := os.Readlink(at("link")); len(to) != 1500 || err != nil {
		t.Errorf("symlink of %d bytes: %v", len(to), err)
	}
	direct, err := unix.Open(at("holes"), unix.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0)
	h.must(err)
	defer unix.Close(direct)
	page := alignedPage()
	copy(page, "direct")
	_, err = unix.Pwrite(direct, page, 8192)
	h.must(err)
	if _, err := f.ReadAt(got[:6], 8192); err != nil || string(got[:6]) != "direct" {
		t.Errorf("a direct write reads %q, %v", got[:6], err)
	}
}

// alignedPage is a buffer that O_DIRECT takes.
func alignedPage() []byte {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	return b
}

// Another host cannot mount the volume while one has it, and gets it with all
// that was written when that one unmounts; and back again.
func TestSecondHostWaitsForTheFirst(t *testing.T) {
	one, two := newHost(t, "first"), newHost(t, "second")
	one.must(command(env.bin, "init", one.volume("shared")))
	one.mount("shared")
	for round := range 6 {
		one.must(os.WriteFile(filepath.Join(one.mnt, "file"), fmt.Appendf(nil, "round %d", round), 0o600))
		cmd := exec.Command(env.bin, "mount", "--log", two.log, two.volume("shared"), two.mnt)
		said, err := cmd.StderrPipe()
		two.must(err)
		two.must(cmd.Start())
		in := bufio.NewReader(said)
		line, err := in.ReadString('\n')
		if err != nil || !strings.Contains(line, "is still in use") {
			rest, _ := io.ReadAll(in)
			t.Fatalf("round %d: a second mount said %q, %v\n%s", round, line, err, rest)
		}
		mounts, err := cell.Mounts()
		two.must(err)
		for _, m := range mounts {
			if m.Target == two.mnt {
				t.Fatalf("round %d: mounted twice", round)
			}
		}
		one.umount()
		rest, _ := io.ReadAll(in)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("round %d: the second mount: %v\n%s", round, err, rest)
		}
		if b, err := os.ReadFile(filepath.Join(two.mnt, "file")); err != nil || string(b) != fmt.Sprintf("round %d", round) {
			t.Fatalf("round %d: the other host reads %q, %v", round, b, err)
		}
		one, two = two, one
	}
}

// A host dies. What fsync acknowledged there is on the other one.
func TestHostDies(t *testing.T) {
	one, two := newHost(t, "dying"), newHost(t, "heir")
	one.must(command(env.bin, "init", one.volume("mourned")))
	one.mount("mourned")
	f, err := os.OpenFile(filepath.Join(one.mnt, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	one.must(err)
	const lines = 200
	for i := range lines {
		_, err := fmt.Fprintf(f, "line %03d\n", i)
		one.must(err)
		one.must(f.Sync())
	}
	one.must(os.Mkdir(filepath.Join(one.mnt, "dir"), 0o755))
	d, err := os.Open(one.mnt)
	one.must(err)
	one.must(d.Sync())
	d.Close()
	one.die()
	f.Close()

	two.mount("mourned")
	b, err := os.ReadFile(filepath.Join(two.mnt, "log"))
	two.must(err)
	var want bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&want, "line %03d\n", i)
	}
	if !bytes.Equal(b, want.Bytes()) {
		t.Errorf("%d bytes of %d that were acknowledged", len(b), want.Len())
	}
	if _, err := os.Stat(filepath.Join(two.mnt, "dir")); err != nil {
		t.Error(err)
	}
}

// A database on it, over the death of the host that ran it.
func TestSQLite(t *testing.T) {
	one, two := newHost(t, "sql-one"), newHost(t, "sql-two")
	one.must(command(env.bin, "init", one.volume("sql")))
	one.mount("sql")
	sql := func(h *host, text string) string {
		t.Helper()
		cmd := exec.Command("sqlite3", "-batch", filepath.Join(h.mnt, "db"), text)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("sqlite3: %v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	sql(one, "pragma journal_mode=wal; pragma synchronous=full; create table t (id integer primary key, x text)")
	for i := range 20 {
		sql(one, fmt.Sprintf("pragma synchronous=full; insert into t (x) select printf('%%0500d', value + %d) from generate_series(1, 50)", i))
	}
	one.die()
	two.mount("sql")
	if got := sql(two, "pragma integrity_check; select count(*), sum(length(x)) from t"); got != "ok\n1000|500000" {
		t.Errorf("after the host died: %q", got)
	}
}
