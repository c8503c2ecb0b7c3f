package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"golang.org/x/sys/unix"
)

// mariadb is a server of its own: its data directory below the directory under
// test, its socket and log outside, no network, nothing of the machine's
// configuration.
type mariadb struct {
	data string
	run  string // socket, pid, error log
	proc *process.Process
}

// installMariaDB makes a data directory owned by user mysql.
func installMariaDB(t testing.TB, dir string) *mariadb {
	t.Helper()
	m := &mariadb{data: filepath.Join(dir, "mysql"), run: filepath.Join(env.scratch, fmt.Sprintf("db%d", volumeCount.Add(1)))}
	u, err := user.Lookup("mysql")
	check(t, err)
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	for _, d := range []string{m.data, m.run} {
		check(t, os.Mkdir(d, 0o750))
		check(t, os.Chown(d, uid, gid))
	}
	command(t, "mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+m.data,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
		"--innodb-flush-method=O_DIRECT", "--innodb-log-file-size=32M")
	return m
}

func (m *mariadb) socket() string { return filepath.Join(m.run, "sock") }

func (m *mariadb) log() string {
	b, _ := os.ReadFile(filepath.Join(m.run, "error.log"))
	return string(b)
}

// start runs the server; an error has the end of its log.
func (m *mariadb) start(extra ...string) error {
	args := []string{"--no-defaults", "--user=mysql", "--datadir=" + m.data, "--socket=" + m.socket(), "--skip-networking",
		"--pid-file=" + filepath.Join(m.run, "pid"), "--log-error=" + filepath.Join(m.run, "error.log"),
		"--innodb-flush-method=O_DIRECT", "--innodb-use-native-aio=1", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=32M",
		"--innodb-flush-log-at-trx-commit=1", "--log-bin=binlog", "--sync-binlog=1", "--server-id=1", "--tmpdir=" + m.data}
	cmd := exec.Command("mariadbd", append(args, extra...)...)
	var err error
	if m.proc, err = process.Start(cmd); err != nil {
		return err
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = m.try("SELECT 1"); err == nil {
			return nil
		}
		if m.proc.Exited() || time.Now().After(end) {
			m.kill()
			return fmt.Errorf("mariadbd does not start: %v\n%s", err, tail(m.log(), 3000))
		}
	}
}

// try runs SQL and returns rows, tab-separated.
func (m *mariadb) try(sql string) (string, error) {
	out, err := exec.Command("mariadb", "--no-defaults", "--socket="+m.socket(), "--user=root", "--batch", "--skip-column-names", "-e", sql).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func (m *mariadb) sql(t testing.TB, sql string) string {
	t.Helper()
	out, err := m.try(sql)
	if err != nil {
		t.Fatalf("%s: %v\n%s", sql, err, tail(m.log(), 3000))
	}
	return out
}

// stop shuts down and waits.
func (m *mariadb) stop(t testing.TB) {
	t.Helper()
	m.proc.Signal(unix.SIGTERM)
	if !m.proc.Wait(60 * time.Second) {
		m.kill()
		t.Fatalf("mariadbd does not stop\n%s", tail(m.log(), 3000))
	}
	if m.proc.Code() != 0 {
		t.Fatalf("mariadbd ended with %d\n%s", m.proc.Code(), tail(m.log(), 3000))
	}
}

// kill ends the server hard; for use at the end of tests too.
func (m *mariadb) kill() {
	if m.proc != nil && !m.proc.Exited() {
		m.proc.Signal(syscall.SIGKILL)
		m.proc.Wait(startTimeout)
	}
}

// purge waits until no history is left of what was committed. Until then a
// server that has just recovered finds damage where there is none (MDEV-35227).
func (m *mariadb) purge(t testing.TB) {
	t.Helper()
	m.sql(t, "SET GLOBAL innodb_max_purge_lag_wait=0")
}

// checkTables has every table of every database examined.
func (m *mariadb) checkTables(t testing.TB) {
	t.Helper()
	m.purge(t)
	out := command(t, "mariadb-check", "--no-defaults", "--socket="+m.socket(), "--user=root", "--all-databases", "--check", "--extended")
	tables := 0
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		tables++
		if !strings.HasSuffix(line, "OK") {
			t.Errorf("CHECK TABLE: %s", line)
		}
	}
	if tables < 20 {
		t.Errorf("%d tables checked:\n%s", tables, out)
	}
}

const sbTables = 4

// fingerprint is row counts and checksums of the tables that sysbench wrote.
func (m *mariadb) fingerprint(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for i := 1; i <= sbTables; i++ {
		fmt.Fprintf(&s, "SELECT %d, COUNT(*), SUM(k), MIN(id), MAX(id) FROM sb.sbtest%d; CHECKSUM TABLE sb.sbtest%d EXTENDED;", i, i, i)
	}
	return m.sql(t, s.String())
}

func (m *mariadb) sysbench(args ...string) *exec.Cmd {
	return exec.Command("sysbench", append([]string{"oltp_read_write", "--db-driver=mysql", "--mysql-socket=" + m.socket(), "--mysql-user=root",
		"--mysql-db=sb", fmt.Sprint("--tables=", sbTables), "--table-size=3000", "--threads=4"}, args...)...)
}

func (m *mariadb) prepare(t testing.TB) {
	t.Helper()
	m.sql(t, "CREATE DATABASE sb")
	if out, err := m.sysbench("prepare").CombinedOutput(); err != nil {
		t.Fatalf("sysbench prepare: %v\n%s\n%s", err, tail(string(out), 2000), tail(m.log(), 2000))
	}
}

// exercise is MariaDB's whole life on a directory: install, load, stop,
// remount, compare. between is called while nothing runs.
func exercise(t *testing.T, dir string, seconds int, between func()) {
	m := installMariaDB(t, dir)
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("MariaDB's log:\n%s", tail(m.log(), 4000))
		}
	})
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	got := m.sql(t, "SELECT @@innodb_use_native_aio, @@innodb_flush_method, @@datadir")
	if want := "1\tO_DIRECT\t" + m.data + "/"; got != want {
		t.Fatalf("the server runs with %q, want %q: no native asynchronous I/O?\n%s", got, want, tail(m.log(), 3000))
	}
	m.prepare(t)
	out, err := m.sysbench(fmt.Sprint("--time=", seconds), "run").CombinedOutput()
	if err != nil {
		t.Fatalf("sysbench: %v\n%s\n%s", err, tail(string(out), 2000), tail(m.log(), 3000))
	}
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "transactions:") {
			t.Log("sysbench", strings.Join(strings.Fields(line), " "))
		}
	}
	// What else a server does: DDL, large rows, MyISAM and Aria, files in and out.
	m.sql(t, `USE sb; CREATE TABLE sb.blobs (id INT PRIMARY KEY, b LONGBLOB) ROW_FORMAT=COMPRESSED;
		INSERT INTO sb.blobs SELECT seq, REPEAT(MD5(seq), 20000) FROM seq_1_to_12;
		CREATE TABLE sb.myisam (id INT PRIMARY KEY, v VARCHAR(100), KEY(v)) ENGINE=MyISAM SELECT seq AS id, MD5(seq) AS v FROM seq_1_to_3000;
		CREATE TABLE sb.aria ENGINE=Aria SELECT * FROM sb.myisam;
		CREATE TABLE sb.compressed (id INT PRIMARY KEY, v TEXT) PAGE_COMPRESSED=1;
		INSERT INTO sb.compressed SELECT seq, REPEAT('abc ', 1000) FROM seq_1_to_300;
		ALTER TABLE sb.sbtest1 ADD COLUMN extra INT DEFAULT 7, ALGORITHM=COPY; OPTIMIZE TABLE sb.sbtest2;
		RENAME TABLE sb.aria TO sb.aria2; CREATE TABLE sb.gone SELECT * FROM sb.myisam; DROP TABLE sb.gone; FLUSH TABLES`)
	m.checkTables(t)
	want := m.fingerprint(t)
	m.stop(t)
	between()
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if got := m.fingerprint(t); got != want {
		t.Errorf("after the remount:\n%s\nbefore:\n%s", got, want)
	}
	if got := m.sql(t, "SELECT COUNT(*), SUM(LENGTH(b)) FROM sb.blobs; SELECT COUNT(*) FROM sb.aria2; SELECT SUM(LENGTH(v)) FROM sb.compressed"); got != "12\t7680000\n3000\n1200000" {
		t.Errorf("got %q", got)
	}
	m.checkTables(t)
	m.stop(t)
}

func TestMariaDB(t *testing.T) {
	if os.Getenv("PLYFS_ONLY") != "mount" {
		t.Run("plain", func(t *testing.T) {
			dir := filepath.Join(env.scratch, "mariadb-plain")
			check(t, os.Mkdir(dir, 0o755))
			defer os.RemoveAll(dir)
			exercise(t, dir, 3, func() {})
		})
	}
	if os.Getenv("PLYFS_ONLY") == "plain" {
		return
	}
	for _, b := range []int{4096, 16384} {
		t.Run(fmt.Sprint("block size ", b), func(t *testing.T) {
			v := newMounted(t, "--block-size", fmt.Sprint(b))
			defer v.watch(t, 5*time.Minute)()
			exercise(t, v.mnt, 6, func() { v.remount(t) })
			// Names of tables and columns, and what the rows hold, are sealed.
			v.mustUnmount(t)
			for _, f := range findNeedles(t, v.cipher, needles("sbtest1", "myisam", "innodb_table_stats", "ibdata1")) {
				t.Errorf("plaintext: %s", f)
			}
			if s := v.log(); strings.Contains(s, "ERROR") || strings.Contains(s, "EIO") {
				t.Errorf("errors in the daemon's log:\n%s", tail(s, 3000))
			}
			v.mustMount(t)
		})
	}
}
