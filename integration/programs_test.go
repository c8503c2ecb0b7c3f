package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFio writes and verifies by each way that databases use. The verification
// runs once more after a remount.
func TestFio(t *testing.T) {
	var cases []posixCase
	for name, extra := range map[string][]string{
		"libaio, O_DIRECT, random writes":   {"--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randwrite", "--bs=4k-64k"},
		"io_uring, O_DIRECT, random writes": {"--ioengine=io_uring", "--direct=1", "--iodepth=16", "--rw=randwrite", "--bs=16k"},
		"io_uring, buffered, sequential":    {"--ioengine=io_uring", "--iodepth=8", "--rw=write", "--bs=128k"},
		"psync, buffered, odd sizes":        {"--ioengine=psync", "--rw=randwrite", "--bsrange=512-20k", "--bs_unaligned=1"},
		"libaio, O_DIRECT and O_DSYNC":      {"--ioengine=libaio", "--direct=1", "--sync=dsync", "--iodepth=4", "--rw=randwrite", "--bs=16k", "--size=4m"},
		"mmap":                              {"--ioengine=mmap", "--rw=randwrite", "--bs=4k"},
		"psync, fdatasync after each":       {"--ioengine=psync", "--rw=write", "--bs=3k", "--fdatasync=1", "--size=3m"},
		"four jobs on one file":             {"--ioengine=libaio", "--direct=1", "--iodepth=8", "--rw=randwrite", "--bs=8k", "--numjobs=4", "--size=4m", "--offset_increment=4m"},
	} {
		cases = append(cases, posixCase{name, func(t *testing.T, p place) {
			args := append([]string{"--name=job", "--filename=" + p.path("f"), "--size=16m", "--verify=crc32c", "--verify_fatal=1",
				"--do_verify=1", "--fallocate=none", "--randseed=1", "--allrandrepeat=1", "--minimal"}, extra...)
			check(t, os.Chdir(env.scratch)) // fio leaves its state where it runs
			defer os.Chdir("/")
			command(t, "fio", args...)
			p.afterRemount(func() { command(t, "fio", append(args, "--verify_only=1")...) })
		}})
	}
	onBoth(t, cases)
}

// TestSQLite writes with each of its journals and looks again after a remount.
func TestSQLite(t *testing.T) {
	var cases []posixCase
	for _, mode := range []string{"delete", "truncate", "persist", "wal"} {
		cases = append(cases, posixCase{"journal_mode=" + mode, func(t *testing.T, p place) {
			db := p.path("db")
			sql := func(script string) string {
				cmd := exec.Command("sqlite3", "-batch", "-bail", db)
				cmd.Stdin = strings.NewReader(script)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("sqlite3: %v\n%s", err, out)
				}
				return strings.TrimSpace(string(out))
			}
			var s strings.Builder
			fmt.Fprintf(&s, "PRAGMA journal_mode=%s; PRAGMA synchronous=FULL;\nCREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);\nCREATE INDEX i ON t(v);\n", mode)
			for i := range 30 {
				fmt.Fprintf(&s, "BEGIN; INSERT INTO t(v) SELECT hex(randomblob(200)) FROM generate_series(1,20); UPDATE t SET v=v||'x' WHERE id%%7=%d; COMMIT;\n", i%7)
			}
			s.WriteString("BEGIN; DELETE FROM t; ROLLBACK; VACUUM;\n")
			script := strings.Replace(s.String(), "CREATE TABLE", "SELECT 1; CREATE TABLE", 1)
			sql(script)
			const look = "PRAGMA integrity_check; SELECT count(*), sum(length(v)) FROM t;"
			want := sql(look)
			if !strings.HasPrefix(want, "ok\n600|") {
				t.Errorf("got %q", want)
			}
			p.afterRemount(func() {
				if got := sql(look); got != want {
					t.Errorf("after a remount: %q, before %q", got, want)
				}
			})
		}})
	}
	onBoth(t, cases)
}

// TestTools has everyday programs work in the directory.
func TestTools(t *testing.T) {
	onBoth(t, []posixCase{
		{"tar there and back", func(t *testing.T, p place) {
			src := p.path("src")
			check(t, os.MkdirAll(src+"/a/b", 0o755))
			for i := range 50 {
				touch(t, fmt.Sprintf("%s/a/file%d", src, i), pattern(i*997, uint64(i)))
			}
			check(t, os.Symlink("../file1", src+"/a/b/link"))
			check(t, os.Link(src+"/a/file1", src+"/hard"))
			check(t, unix.Mkfifo(src+"/fifo", 0o600))
			check(t, os.Truncate(src+"/a/file2", 10<<20))
			command(t, "tar", "-C", src, "--sparse", "--xattrs", "-cf", p.path("t.tar"), ".")
			check(t, os.Mkdir(p.path("dst"), 0o755))
			command(t, "tar", "-C", p.path("dst"), "--xattrs", "-xpf", p.path("t.tar"))
			command(t, "diff", "-r", "--no-dereference", src+"/a", p.path("dst")+"/a")
			if a, b := stat(t, p.path("dst", "hard")), stat(t, p.path("dst", "a", "file1")); a.Ino != b.Ino {
				t.Error("the hard link is lost")
			}
		}},
		{"cp -a, and du", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(3<<20, 1))
			check(t, os.Truncate(p.path("f"), 500<<20))
			command(t, "cp", "-a", "--sparse=auto", p.path("f"), p.path("g"))
			command(t, "cmp", "-n", "4194304", p.path("f"), p.path("g"))
			if st := stat(t, p.path("g")); st.Blocks*512 > 16<<20 || st.Size != 500<<20 {
				t.Errorf("the copy of a sparse file has %d bytes and takes %d", st.Size, st.Blocks*512)
			}
		}},
		{"git", func(t *testing.T, p place) {
			git := func(args ...string) string {
				return command(t, "git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "safe.directory=*",
					"-c", "core.fsync=all", "-C", p.path()}, args...)...)
			}
			git("init", "-q", "-b", "main")
			for i := range 20 {
				touch(t, p.path(fmt.Sprint("file", i%5)), pattern(5000*(i+1), uint64(i)))
				git("add", "-A")
				git("commit", "-q", "-m", fmt.Sprint(i))
			}
			git("gc", "-q", "--prune=now")
			p.afterRemount(func() {
				git("fsck", "--full", "--strict")
				if out := git("status", "--porcelain"); out != "" {
					t.Errorf("status: %s", out)
				}
				if n := strings.TrimSpace(git("rev-list", "--count", "HEAD")); n != "20" {
					t.Errorf("%s commits", n)
				}
			})
		}},
	})
}
