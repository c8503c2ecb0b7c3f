package mysql

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"golang.org/x/sys/unix"
)

// server is one instance: everything that it writes lies below dir, but for
// socket, process ID and error log.
type server struct {
	*product
	dir  string
	run  string
	opts []string // of every start

	program string // the daemon
	port    int    // of 127.0.0.1; 0 for none
	proc    *process.Process
}

var serverCount atomic.Int32

// newServer is an instance below dir that has no data yet. opts are given to
// every start, and to the installation.
func newServer(t testing.TB, p *product, dir string, opts ...string) *server {
	t.Helper()
	n := serverCount.Add(1)
	s := &server{product: p, dir: dir, run: filepath.Join(env.scratch, fmt.Sprint("s", n)), program: p.daemon()}
	p.owned(t, dir, s.path("binlog"), s.path("redo"), s.path("undo"), s.path("tmp"), s.path("dblwr"), s.path("files"), s.run)
	s.opts = append([]string{"--server-id=" + fmt.Sprint(n)}, opts...)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("%s's log:\n%s", p.name, lastLines(s.log(), 60))
		}
		if os.Getenv("PLYFS_KEEP") == "" {
			os.RemoveAll(s.run)
		}
	})
	return s
}

// install makes the instance's data: system tables, user root without a
// password.
func (s *server) install(t testing.TB) {
	t.Helper()
	common := append([]string{"--no-defaults"}, s.arguments()...)
	if !s.isMariaDB() {
		out, err := s.asMySQL(append([]string{s.program}, append(common, "--initialize-insecure")...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("mysqld --initialize: %v\n%s\n%s", err, out, tail(s.log(), 6000))
		}
		return
	}
	command(t, s.asMySQL(append([]string{"mariadb-install-db"}, append(common, "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve")...)...))
}

// newInstalled is a running instance below dir.
func newInstalled(t testing.TB, p *product, dir string, opts ...string) *server {
	t.Helper()
	s := newServer(t, p, dir, opts...)
	s.install(t)
	s.mustStart(t)
	return s
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }
func (s *server) datadir() string         { return s.path("data") }
func (s *server) socket() string          { return filepath.Join(s.run, "sock") }

// log is the error log, without its middle if that is long.
func (s *server) log() string {
	const most = 256 << 10
	f, err := os.Open(filepath.Join(s.run, "error.log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	first, _ := io.ReadAll(io.LimitReader(f, most))
	info, err := f.Stat()
	if err != nil || info.Size() <= most {
		return string(first)
	}
	last, _ := io.ReadAll(io.NewSectionReader(f, max(most, info.Size()-most), most))
	return string(first) + "\n[...]\n" + string(last)
}

// arguments are small sizes, every kind of file in a place of its own, and the
// instance's own options last.
func (s *server) arguments() []string {
	args := []string{"--datadir=" + s.datadir(), "--tmpdir=" + s.path("tmp"), "--socket=" + s.socket(),
		"--pid-file=" + filepath.Join(s.run, "pid"), "--log-error=" + filepath.Join(s.run, "error.log"),
		"--log-bin=" + s.path("binlog/binlog"), "--sync-binlog=1",
		"--innodb-log-group-home-dir=" + s.path("redo"), "--innodb-undo-directory=" + s.path("undo"),
		"--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=48M", "--secure-file-priv=", "--local-infile=1",
		"--max-connections=60"}
	if s.isMariaDB() {
		args = append(args, "--innodb-log-file-size=32M", "--innodb-undo-tablespaces=3", "--gtid-strict-mode=1",
			"--log-slave-updates=1")
	} else {
		args = append(args, "--innodb-redo-log-capacity=32M", "--innodb-doublewrite-dir="+s.path("dblwr"), "--mysqlx=OFF",
			"--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--performance-schema=OFF")
	}
	return append(args, s.opts...)
}

// start runs the server; an error has the end of its log.
func (s *server) start(extra ...string) error {
	args := append([]string{s.program, "--no-defaults"}, s.arguments()...)
	if s.port == 0 {
		args = append(args, "--skip-networking")
	} else {
		args = append(args, "--bind-address=127.0.0.1", fmt.Sprint("--port=", s.port))
	}
	out, err := os.OpenFile(filepath.Join(s.run, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := s.asMySQL(append(args, extra...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if s.proc, err = process.Start(cmd); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err = s.try("SELECT 1"); err == nil {
			return nil
		}
		if s.proc.Exited() || time.Now().After(end) {
			s.kill()
			said, _ := os.ReadFile(out.Name())
			return fmt.Errorf("%s does not start: %v\n%s%s", s.daemon(), err, tail(string(said), 2000), tail(s.log(), 5000))
		}
	}
}

func (s *server) mustStart(t testing.TB, extra ...string) {
	t.Helper()
	check(t, s.start(extra...))
}

// stop shuts down and waits.
func (s *server) stop(t testing.TB) {
	t.Helper()
	s.proc.Signal(unix.SIGTERM)
	if !s.proc.Wait(patience) {
		files := s.redoFiles()
		s.kill()
		t.Fatalf("%s does not stop\n%s\n[...]\n%s\nredo files: %s", s.daemon(), head(s.log(), 6000), tail(s.log(), 2000), files)
	}
	if s.proc.Code() != 0 {
		t.Fatalf("%s ended with %d\n%s", s.daemon(), s.proc.Code(), tail(s.log(), 4000))
	}
}

// redoFiles says what a listing of the redo log's directory shows, and whether
// each name can be looked up: the one asks the filesystem, the other the
// kernel's memory of it.
func (s *server) redoFiles() string {
	var out strings.Builder
	for _, dir := range []string{s.path("redo"), s.datadir()} {
		for _, pattern := range []string{"ib_logfile*", "#innodb_redo/*"} {
			names, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, name := range names {
				info, err := os.Stat(name)
				if err != nil {
					fmt.Fprintf(&out, "\n%v", err)
				} else {
					fmt.Fprintf(&out, "\n%s, %d bytes", name, info.Size())
				}
			}
		}
	}
	return out.String()
}

// kill ends the server hard, if it runs.
func (s *server) kill() {
	if s.proc != nil && !s.proc.Exited() {
		s.proc.Signal(syscall.SIGKILL)
		s.proc.Wait(patience)
	}
}

// client is the command line of an SQL session. MariaDB's client speaks to
// both servers.
func (s *server) client(args ...string) *exec.Cmd {
	return exec.Command("mariadb", append([]string{"--no-defaults", "--socket=" + s.socket(), "--user=root", "--batch",
		"--skip-column-names", "--unbuffered", "--local-infile=1"}, args...)...)
}

// try runs SQL and returns rows, tab-separated.
func (s *server) try(sql string) (string, error) {
	cmd := s.client()
	cmd.Stdin = strings.NewReader(sql)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return strings.TrimSpace(out.String()), err
}

func (s *server) sql(t testing.TB, sql string) string {
	t.Helper()
	out, err := s.try(sql)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", s.name, tail(sql, 1000), err, tail(s.log(), 4000))
	}
	return out
}

// tables lists the tables, without views, of users or of all databases.
func (s *server) tables(t testing.TB, all bool) []string {
	t.Helper()
	not := "'information_schema','performance_schema','sys','mysql'"
	if all {
		not = "'information_schema','performance_schema'"
	}
	out := s.sql(t, "SELECT CONCAT('`',table_schema,'`.`',table_name,'`') FROM information_schema.tables WHERE table_type='BASE TABLE' AND table_schema NOT IN ("+not+") ORDER BY 1")
	return strings.Fields(out)
}

// checkTables has every table of every database examined.
func (s *server) checkTables(t testing.TB) {
	t.Helper()
	all := s.tables(t, true)
	if s.isMariaDB() {
		// One that has just recovered finds damage where there is none while it
		// still purges (MDEV-35227).
		s.sql(t, "SET GLOBAL innodb_max_purge_lag_wait=0")
	}
	out := s.sql(t, "CHECK TABLE "+strings.Join(all, ", ")+" EXTENDED")
	ok := 0
	for _, line := range strings.Split(out, "\n") {
		if strings.HasSuffix(line, "\tOK") || strings.Contains(line, "doesn't support check") {
			ok++
		} else if strings.Contains(line, "\terror\t") || strings.Contains(line, "\twarning\t") || strings.Contains(line, "orrupt") {
			t.Errorf("CHECK TABLE: %s", line)
		}
	}
	if ok < len(all) || ok < 20 {
		t.Errorf("%d of %d tables are well:\n%s", ok, len(all), tail(out, 3000))
	}
}

// checksums has a line for each table of users, with its rows and checksum.
func (s *server) checksums(t testing.TB) string {
	t.Helper()
	var q strings.Builder
	for _, name := range s.tables(t, false) {
		fmt.Fprintf(&q, "SELECT COUNT(*) FROM %s; CHECKSUM TABLE %s EXTENDED;\n", name, name)
	}
	return s.sql(t, q.String())
}

// wantSame compares two results of checksums.
func wantSame(t testing.TB, when, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i, line := range w {
		if !slices.Contains(g, line) {
			t.Errorf("%s: %q is missing; line %d of %d and %d", when, line, i, len(w), len(g))
		}
	}
	t.Fatalf("%s: tables differ:\n%s\nwanted:\n%s", when, tail(got, 2000), tail(want, 2000))
}
