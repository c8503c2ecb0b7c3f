package mysql

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

// A backup drill: a server on one volume, its backups on another with other
// keys, and a restore onto a third place that ends with the same checksums of
// all tables.

// drill is where it happens.
type drill struct {
	*server
	home, vault *volume // of the server, and of its backups
}

func newDrill(t *testing.T, p *product) *drill {
	home := newVolume(t, group{"east", "db"})
	vault := newVolume(t, group{"east", "backup"})
	d := &drill{newInstalled(t, p, home.mnt+"/mysql", "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0"), home, vault}
	prepareLedger(t, d.server)
	d.prepareSysbench(t, 4, size(2000, 200_000))
	engine := "InnoDB" // the clone plugin copies no other
	if p.isMariaDB() {
		engine = "MyISAM"
	}
	d.sql(t, "CREATE DATABASE other; CREATE TABLE other.m (id INT PRIMARY KEY, v VARCHAR(50)) ENGINE="+engine+"; INSERT INTO other.m VALUES (1,'one'),(2,'zwei'),(3,'три')")
	return d
}

// prepareSysbench makes its tables.
func (s *server) prepareSysbench(t testing.TB, tables, rows int) {
	t.Helper()
	s.sql(t, "CREATE DATABASE sb")
	command(t, s.sysbench("oltp_read_write", fmt.Sprint("--tables=", tables), fmt.Sprint("--table-size=", rows), "prepare"))
}

// restored is a server on data that a tool put at dir/data, which is started
// and must have the tables that are wanted.
func (d *drill) restored(t *testing.T, s *server, want string) {
	t.Helper()
	command(t, exec.Command("chown", "-R", fmt.Sprintf("%d:%d", s.uid, s.gid), s.dir))
	s.mustStart(t)
	wantSame(t, "restored", s.checksums(t), want)
	s.checkTables(t)
	s.stop(t)
}

// empty is another instance without data, on the volume of the first.
func (d *drill) empty(t *testing.T, name string) *server {
	t.Helper()
	return newServer(t, d.product, filepath.Join(d.home.mnt, name), "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0")
}

// TestBackups makes and restores backups by each tool, under load, with the
// backup on a mount of another machine group.
func TestBackups(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		d := newDrill(t, p)
		kinds := []struct {
			name, not string
			run       func(t *testing.T)
		}{
			{"mariadb-backup, full and two incremental under load, prepared, restored", "MySQL", d.mariadbBackup},
			{"clone plugin under load, started on the clone", "MariaDB", d.clone},
			{"logical dump piped onto the mount, restored", "", d.dump},
			{"mydumper and myloader", "MySQL", d.mydumper},
			{"point-in-time recovery from copied binary logs to an exact second", "", d.pointInTime},
		}
		for _, k := range kinds {
			if k.not == p.name {
				continue
			}
			t.Run(strings.ReplaceAll(strings.SplitN(k.name, ",", 2)[0], " ", "-"), func(t *testing.T) {
				env.results.record(t, p, nil, k.name)
				k.run(t)
			})
		}
		d.checkTables(t)
		d.stop(t)
	})
}

// quiet wants a load's transactions on a server, ends it and returns the
// checksums of all tables that are there then.
func (d *drill) quiet(t *testing.T, l *ledger) string {
	t.Helper()
	l.stop(t)
	l.verify(t, d.server)
	return d.checksums(t)
}

// mariadbBackup takes a full backup and two increments while the load runs, the
// last one when it has ended, and restores.
func (d *drill) mariadbBackup(t *testing.T) {
	dir := d.vault.mnt + "/physical"
	d.owned(t, dir)
	step := func(name string, args ...string) {
		t.Helper()
		cmd := d.asMySQL(append([]string{"mariadb-backup"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "completed OK!") {
			t.Fatalf("mariadb-backup, %s: %v\n%s", name, err, tail(string(out), 4000))
		}
	}
	backup := func(name, base string) {
		args := []string{"--no-defaults", "--backup", "--socket=" + d.socket(), "--user=root", "--target-dir=" + filepath.Join(dir, name)}
		if base != "" {
			args = append(args, "--incremental-basedir="+filepath.Join(dir, base))
		}
		step(name, args...)
	}
	l := startLedger(d.server)
	l.await(t, 5)
	backup("full", "")
	l.await(t, 5)
	backup("inc1", "full")
	l.await(t, 5)
	want := d.quiet(t, l)
	backup("inc2", "inc1")
	// The load goes on after it: none of that may be in the restored one.
	d.sql(t, "CREATE TABLE other.later (id INT)")
	defer d.sql(t, "DROP TABLE other.later")
	d.vault.remount(t)

	full := "--target-dir=" + dir + "/full"
	step("prepare full", "--no-defaults", "--prepare", full)
	step("prepare inc1", "--no-defaults", "--prepare", full, "--incremental-dir="+dir+"/inc1")
	step("prepare inc2", "--no-defaults", "--prepare", full, "--incremental-dir="+dir+"/inc2")
	s := d.empty(t, "restored-physical")
	step("copy back", "--no-defaults", "--copy-back", full, "--datadir="+s.datadir(),
		"--innodb-log-group-home-dir="+s.path("redo"), "--innodb-undo-directory="+s.path("undo"))
	d.restored(t, s, want)
	os.RemoveAll(s.dir)
}

// clone copies the server by its own plugin, onto the other mount, while the
// load runs, and starts a server there.
func (d *drill) clone(t *testing.T) {
	d.sql(t, "INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
	s := d.cloned(t, d.vault.mnt+"/clone")
	l := startLedger(d.server)
	l.await(t, 5)
	var at [ledgerClients]int64
	for c := range at {
		at[c] = l.acked[c].Load()
	}
	d.sql(t, fmt.Sprintf("CLONE LOCAL DATA DIRECTORY = '%s'", s.datadir()))
	l.await(t, 5)
	d.quiet(t, l)
	s.mustStart(t)
	l.verifyFrom(t, s, at) // what was there when it began
	s.checkTables(t)
	s.stop(t)
	// Without load, all is the same.
	s = d.cloned(t, d.vault.mnt+"/clone2")
	want := d.checksums(t)
	d.sql(t, fmt.Sprintf("CLONE LOCAL DATA DIRECTORY = '%s'", s.datadir()))
	d.vault.remount(t)
	d.restored(t, s, want)
}

// cloned is an instance whose logs are where the clone plugin puts them.
func (d *drill) cloned(t *testing.T, dir string) *server {
	t.Helper()
	return newServer(t, d.product, dir, "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0",
		"--innodb-log-group-home-dir="+dir+"/data", "--innodb-undo-directory="+dir+"/data")
}

// tool is a client program of the product, talking to a server.
func (s *server) tool(name string, args ...string) *exec.Cmd {
	return s.command(append([]string{name, "--no-defaults", "--socket=" + s.socket(), "--user=root"}, args...)...)
}

// dump pipes a logical dump of everything into a file on the other mount, and
// that file into a new server.
func (d *drill) dump(t *testing.T) {
	path := d.vault.mnt + "/all.sql"
	l := startLedger(d.server)
	l.await(t, 5)
	d.dumpTo(t, path, "--single-transaction") // a consistent one, under load
	d.dumpedWell(t, path)
	want := d.quiet(t, l)
	d.dumpTo(t, path, "--single-transaction")
	d.vault.remount(t)
	s := d.empty(t, "restored-dump")
	s.install(t)
	s.mustStart(t)
	d.feed(t, s, path)
	wantSame(t, "restored", s.checksums(t), want)
	s.stop(t)
	os.RemoveAll(s.dir)
}

func (d *drill) dumpTo(t *testing.T, path string, args ...string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	args = append(args, "--routines", "--events", "--databases", "ledger", "sb", "other")
	if !d.isMariaDB() {
		args = append([]string{"--set-gtid-purged=OFF"}, args...)
	}
	cmd := d.tool(d.dumper(), args...)
	var errs strings.Builder
	cmd.Stdout, cmd.Stderr = f, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("dump: %v: %s", err, errs.String())
	}
	check(t, f.Sync())
}

func (d *drill) dumpedWell(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	if !regexp.MustCompile(`-- Dump completed on .*\n$`).Match(b) {
		t.Errorf("the dump ends with %q", tail(string(b), 200))
	}
}

// feed has a server execute a file.
func (d *drill) feed(t *testing.T, s *server, path string) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	cmd := s.client()
	cmd.Stdin = f
	command(t, cmd)
}

// mydumper writes many files at once, and myloader reads them.
func (d *drill) mydumper(t *testing.T) {
	dir := d.vault.mnt + "/mydumper"
	l := startLedger(d.server)
	l.await(t, 5)
	want := d.quiet(t, l)
	d.runMydumper(t, dir)
	d.vault.remount(t)
	s := d.empty(t, "restored-mydumper")
	s.install(t)
	s.mustStart(t)
	command(t, exec.Command("myloader", "--socket", s.socket(), "--user", "root", "--threads", "4", "--directory", dir))
	wantSame(t, "restored", s.checksums(t), want)
	s.stop(t)
	os.RemoveAll(s.dir)
}

// runMydumper dumps to dir. Debian 12's mydumper now and then waits for ever, when
// all is dumped, in one of its threads for a job that nobody gives it: it is seen
// there with nothing under way on the mount or in the server. It is killed then,
// and started again.
func (d *drill) runMydumper(t *testing.T, dir string) {
	t.Helper()
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out, err := exec.CommandContext(ctx, "mydumper", "--socket", d.socket(), "--user", "root", "--threads", "4",
			"--regex", "^(ledger|sb|other)\\.", "--rows", "1000", "--compress", "--outputdir", dir).CombinedOutput()
		hung := ctx.Err() != nil
		cancel()
		if err == nil {
			return
		}
		if !hung || try == 3 {
			t.Fatalf("mydumper, try %d: %v\n%s", try, err, tail(string(out), 4000))
		}
		t.Logf("mydumper hangs: %s", tail(string(out), 1000))
		check(t, os.RemoveAll(dir))
	}
}

// pointInTime restores a dump and the binary logs after it up to the second
// before a mistake, with the logs copied to the other mount while the load ran.
func (d *drill) pointInTime(t *testing.T) {
	path := d.vault.mnt + "/base.sql"
	d.sql(t, "FLUSH BINARY LOGS; CREATE TABLE other.seconds (id INT PRIMARY KEY, at DATETIME) ENGINE=InnoDB")
	position := "--master-data=2"
	if !d.isMariaDB() {
		position = "--source-data=2"
	}
	d.dumpTo(t, path, "--single-transaction", position)
	l := startLedger(d.server)
	l.await(t, 10)
	// A row in each second, until the mistake: the statement of the first
	// second that is not to be there any more.
	var stop string // in the server's time zone
	for n := range 3 {
		out := d.sql(t, fmt.Sprintf("INSERT INTO other.seconds VALUES (%d, NOW()); SELECT UNIX_TIMESTAMP(at), at FROM other.seconds WHERE id=%d", n, n))
		var unix int64
		_, err := fmt.Sscan(out, &unix)
		check(t, err)
		_, stop, _ = strings.Cut(out, "\t")
		time.Sleep(time.Until(time.Unix(unix+1, 0).Add(50 * time.Millisecond)))
	}
	l.await(t, 10)
	d.sql(t, "DROP TABLE sb.sbtest1; FLUSH BINARY LOGS")
	d.quiet(t, l)

	logs := d.vault.mnt + "/binlogs"
	d.owned(t, logs)
	files, err := filepath.Glob(d.path("binlog/binlog.[0-9]*"))
	check(t, err)
	sort.Strings(files)
	command(t, exec.Command("cp", append(files, logs)...))
	d.vault.remount(t)

	b, err := os.ReadFile(path)
	check(t, err)
	m := regexp.MustCompile(`(?:MASTER|SOURCE)_LOG_FILE='([^']+)', (?:MASTER|SOURCE)_LOG_POS=(\d+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("the dump does not say its position:\n%s", b[:min(len(b), 2000)])
	}
	s := d.empty(t, "restored-time")
	s.install(t)
	s.mustStart(t)
	d.feed(t, s, path)
	args := []string{d.binlogReader(), "--no-defaults", "--start-position=" + string(m[2]),
		"--stop-datetime=" + stop}
	for _, f := range files {
		if filepath.Base(f) >= string(m[1]) {
			args = append(args, filepath.Join(logs, filepath.Base(f)))
		}
	}
	if !d.isMariaDB() {
		args = append(args[:2], append([]string{"--skip-gtids"}, args[2:]...)...)
	}
	sql := filepath.Join(d.run, "replay.sql")
	out, err := os.Create(sql)
	check(t, err)
	replay := d.command(args...)
	var errs strings.Builder
	replay.Stdout, replay.Stderr = out, &errs
	if err := replay.Run(); err != nil {
		t.Fatalf("%s: %v: %s", args[0], err, errs.String())
	}
	check(t, out.Close())
	d.feed(t, s, sql)
	// Everything before the third second, nothing from it on.
	if got := s.sql(t, "SELECT GROUP_CONCAT(id ORDER BY id) FROM other.seconds"); got != "0,1" {
		t.Errorf("rows of seconds %q are there, wanted 0,1", got)
	}
	want := size(2000, 200_000)
	if got := s.sql(t, "SELECT COUNT(*) FROM sb.sbtest1"); got != fmt.Sprint(want) {
		t.Errorf("the dropped table has %s rows, wanted %d", got, want)
	}
	s.checkTables(t)
	s.stop(t)
	os.RemoveAll(s.dir)
}
