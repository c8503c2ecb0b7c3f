package mysql

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// feature is something that servers do with their files. It leaves its tables
// in the database f, for the kills and the remount that follow.
type feature struct {
	name string
	not  string // the product that does not have it
	run  func(t *testing.T, v *volume, s *server) (note string)
}

var features = []feature{
	{"LOAD DATA from the client and from a file on the mount, SELECT INTO OUTFILE", "", loadData},
	{"ALTER, OPTIMIZE, TRUNCATE and DROP of a big table, space given back", "", alterBig},
	{"general tablespaces", "MariaDB", generalTablespaces},
	{"tables in a DATA DIRECTORY of their own", "", dataDirectory},
	{"sorts and temporary tables on disk", "", temporary},
	{"partitions, full text, foreign keys, generated columns, large rows", "", shapes},
	{"other engines", "", otherEngines},
	{"undo tablespaces truncated", "", undoTruncate},
	{"XA transaction prepared, server killed, committed", "", xa},
}

// TestFeatures has a server with O_DIRECT and native AIO do all of them, and
// then survive kills and a remount with what they left.
func TestFeatures(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		c := setup{16, "O_DIRECT", "io_uring", false, 4096}
		if !p.isMariaDB() {
			c.aio = "libaio"
		}
		v := newVolume(t, group{}, "--block-size", fmt.Sprint(c.block))
		data := v.mnt + "/elsewhere"
		opts := c.options(p)
		if !p.isMariaDB() {
			opts = append(opts, "--innodb-directories="+data)
		}
		if env.long { // the big table is larger all the same
			log := "--innodb-redo-log-capacity=512M"
			if p.isMariaDB() {
				log = "--innodb-log-file-size=512M"
			}
			opts = append(opts, "--innodb-buffer-pool-size=512M", log)
		}
		p.owned(t, data)
		s := newInstalled(t, p, v.mnt+"/mysql", opts...)
		c.effective(t, s)
		s.sql(t, "CREATE DATABASE f")
		for _, f := range features {
			if f.not == p.name {
				continue
			}
			t.Run(strings.ReplaceAll(strings.SplitN(f.name, ",", 2)[0], " ", "-"), func(t *testing.T) {
				var note string
				env.results.record(t, p, &note, f.name)
				note = f.run(t, v, s)
			})
		}
		t.Run("kills", func(t *testing.T) {
			env.results.record(t, p, nil, c.String()+", kill -9 of both, remount")
			prepareLedger(t, s)
			survive(t, v, s)
			wantAfterRemount(t, v, s)
		})
		t.Run("page-compression", func(t *testing.T) {
			var note string
			env.results.record(t, p, &note, "page compression, holes punched")
			note = pageCompression(t, v, s)
		})
		s.stop(t)
	})
}

// size is for the short run, and a larger one for the long.
func size(short, long int) int {
	if env.long {
		return long
	}
	return short
}

// loadData writes a set of rows to a file and has the server read it twice.
func loadData(t *testing.T, v *volume, s *server) string {
	rows := size(20_000, 2_000_000)
	path := s.path("files/rows.csv")
	f, err := os.Create(path)
	check(t, err)
	w := bufio.NewWriterSize(f, 1<<20)
	for i := range rows {
		fmt.Fprintf(w, "%d,%d,\"customer %d of region %d\",%d.%02d,2026-%02d-%02d,%s\n", i, i*7919%rows, i*31%5000, i%17, i%9999, i%100,
			1+i%12, 1+i%28, strings.Repeat(string(rune('a'+i%26)), 20+i%90))
	}
	check(t, w.Flush())
	check(t, f.Close())
	check(t, os.Chown(path, s.uid, s.gid))
	info, err := os.Stat(path)
	check(t, err)
	table := "(id INT PRIMARY KEY, k INT, customer VARCHAR(80), amount DECIMAL(10,2), day DATE, pad VARCHAR(200), KEY(k), KEY(day, customer))"
	s.sql(t, "USE f; CREATE TABLE loaded "+table+"; CREATE TABLE local "+table)
	how := "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"'"
	start := time.Now()
	s.sql(t, fmt.Sprintf("LOAD DATA INFILE '%s' INTO TABLE f.loaded %s", path, how))
	took := time.Since(start)
	s.sql(t, fmt.Sprintf("LOAD DATA LOCAL INFILE '%s' INTO TABLE f.local %s", path, how))
	out := s.path("files/out.csv")
	s.sql(t, fmt.Sprintf("SELECT id, k, customer, amount, day, pad INTO OUTFILE '%s' %s LINES TERMINATED BY '\\n' FROM f.loaded ORDER BY id", out, how))
	// The numbers and dates are unquoted on the way in, and on the way out text is quoted.
	sum := s.sql(t, "SELECT COUNT(*), SUM(k), SUM(amount), SUM(LENGTH(pad)) FROM f.loaded; CHECKSUM TABLE f.loaded, f.local")
	lines := strings.Split(sum, "\n")
	if !strings.HasPrefix(lines[0], fmt.Sprint(rows, "\t")) || strings.Fields(lines[1])[1] != strings.Fields(lines[2])[1] {
		t.Errorf("loaded: %s", sum)
	}
	s.sql(t, "CREATE TABLE f.again LIKE f.loaded; "+fmt.Sprintf("LOAD DATA INFILE '%s' INTO TABLE f.again %s", out, how))
	if got := s.sql(t, "CHECKSUM TABLE f.again"); strings.Fields(got)[1] != strings.Fields(lines[1])[1] {
		t.Errorf("what was written out and read again has checksum %s, not %s", got, lines[1])
	}
	s.sql(t, "DROP TABLE f.again, f.local")
	check(t, os.Remove(out))
	check(t, os.Remove(path))
	return fmt.Sprintf("%d rows, %d MB in %.1f s", rows, info.Size()/1e6, took.Seconds())
}

// alterBig rebuilds the table that loadData left, and drops copies.
func alterBig(t *testing.T, v *volume, s *server) string {
	want := s.sql(t, "SELECT COUNT(*), SUM(CRC32(CONCAT(id, k, customer, amount, day, pad))) FROM f.loaded")
	before := allocated(t, v)
	s.sql(t, `USE f;
		ALTER TABLE loaded ADD COLUMN extra INT DEFAULT 7, ALGORITHM=COPY;
		ALTER TABLE loaded ADD INDEX (amount), ALGORITHM=INPLACE;
		ALTER TABLE loaded DROP COLUMN extra, ALGORITHM=INPLACE;
		ALTER TABLE loaded ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8;
		ALTER TABLE loaded ROW_FORMAT=DYNAMIC KEY_BLOCK_SIZE=0;
		CREATE TABLE copy1 LIKE loaded; INSERT INTO copy1 SELECT * FROM loaded;
		CREATE TABLE copy2 LIKE loaded; INSERT INTO copy2 SELECT * FROM loaded;
		DELETE FROM copy1 WHERE id % 3 <> 0; OPTIMIZE TABLE copy1; OPTIMIZE TABLE loaded`)
	if got := s.sql(t, "SELECT COUNT(*), SUM(CRC32(CONCAT(id, k, customer, amount, day, pad))) FROM f.loaded"); got != want {
		t.Errorf("after the rebuilds the table is %s, it was %s", got, want)
	}
	full := allocated(t, v)
	s.sql(t, "USE f; TRUNCATE TABLE copy1; DROP TABLE copy1, copy2")
	freed := awaitAllocated(t, v, full-(full-before)/3)
	return fmt.Sprintf("%d MB of ciphertext freed", (full-freed)>>20)
}

// allocated is how many bytes the ciphertext directory takes on its disk,
// without the journal.
func allocated(t testing.TB, v *volume) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(v.cipher, func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".plyfs" {
			return filepath.SkipDir
		}
		if info, err := d.Info(); err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	check(t, err)
	return sum
}

// awaitAllocated waits until the ciphertext takes no more than so many bytes:
// space is given back with the next checkpoint.
func awaitAllocated(t testing.TB, v *volume, most int64) int64 {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		n := allocated(t, v)
		if n <= most {
			return n
		}
		if time.Now().After(end) {
			t.Fatalf("the ciphertext takes %d KiB, wanted %d at most", n>>10, most>>10)
		}
	}
}

// pageCompression makes the same table without and with page compression. What
// the disk beneath has allocated must differ by most of what was written: both
// servers also reserve space that they have not written yet.
func pageCompression(t *testing.T, v *volume, s *server) string {
	option, rows := "PAGE_COMPRESSED=1", size(8000, 100_000)
	depth := "max_recursive_iterations"
	if !s.isMariaDB() {
		option, depth = "COMPRESSION='zlib'", "cte_max_recursion_depth"
	}
	fill := func(table, option string) string {
		return fmt.Sprintf(`USE f; CREATE TABLE %s (id INT PRIMARY KEY, v TEXT) ENGINE=InnoDB %s; SET SESSION %s = %d;
			INSERT INTO %s WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) SELECT i, REPEAT(SHA2(i, 256), 20) FROM n;
			FLUSH TABLES %s FOR EXPORT; UNLOCK TABLES`, table, option, depth, rows+1, table, rows, table)
	}
	// A remount brings everything home, and space back.
	settled := func() int64 { s.stop(t); v.remount(t); s.mustStart(t); return allocated(t, v) }
	written := int64(rows) * 64 * 20
	empty := allocated(t, v)
	s.sql(t, fill("plainpages", ""))
	full := settled()
	s.sql(t, fill("pressed", option))
	pressed, plain := settled()-full, full-empty
	if pressed > plain-written/2 {
		t.Errorf("%d KiB of disk with page compression, %d without, for %d KiB of text", pressed>>10, plain>>10, written>>10)
	}
	if got := s.sql(t, "SELECT COUNT(*) FROM f.plainpages p JOIN f.pressed c ON p.id = c.id AND p.v = c.v"); got != fmt.Sprint(rows) {
		t.Errorf("%s of %d rows are the same", got, rows)
	}
	s.sql(t, "DROP TABLE f.plainpages")
	return fmt.Sprintf("%d MB of disk instead of %d", pressed>>20, plain>>20)
}

func generalTablespaces(t *testing.T, v *volume, s *server) string {
	s.sql(t, `USE f; CREATE TABLESPACE ts ADD DATAFILE 'ts.ibd' ENGINE=InnoDB;
		CREATE TABLE t1 (id INT PRIMARY KEY, v TEXT) TABLESPACE ts; CREATE TABLE t2 LIKE t1;
		INSERT INTO t1 SELECT id, pad FROM loaded WHERE id < 5000; INSERT INTO t2 SELECT * FROM t1;
		ALTER TABLE t2 TABLESPACE innodb_file_per_table; ALTER TABLE t2 TABLESPACE ts;
		CREATE TABLESPACE gone ADD DATAFILE '`+v.mnt+`/elsewhere/gone.ibd' ENGINE=InnoDB; CREATE TABLE t3 (id INT) TABLESPACE gone;
		DROP TABLE t3; DROP TABLESPACE gone;
		ALTER TABLESPACE ts RENAME TO ts2`)
	if got := s.sql(t, "SELECT COUNT(*) FROM f.t1 JOIN f.t2 USING (id, v)"); got != "5000" {
		t.Errorf("%s rows", got)
	}
	return ""
}

func dataDirectory(t *testing.T, v *volume, s *server) string {
	s.sql(t, fmt.Sprintf(`USE f; CREATE TABLE elsewhere (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB DATA DIRECTORY='%s/elsewhere';
		INSERT INTO elsewhere SELECT id, pad FROM loaded WHERE id < 3000; RENAME TABLE elsewhere TO elsewhere2`, v.mnt))
	found, _ := filepath.Glob(v.mnt + "/elsewhere/f/*.ibd")
	if len(found) != 1 {
		t.Errorf("files in the directory: %v", found)
	}
	return ""
}

func temporary(t *testing.T, v *volume, s *server) string {
	small := "SET SESSION tmp_table_size=1024*64, max_heap_table_size=1024*64, sort_buffer_size=1024*64; "
	got := s.sql(t, small+`SELECT COUNT(*), MIN(n) FROM (SELECT customer, pad, COUNT(*) n FROM f.loaded GROUP BY customer, pad) g;
		CREATE TEMPORARY TABLE f.tmp ENGINE=InnoDB SELECT * FROM f.loaded ORDER BY pad, customer LIMIT 10000; SELECT COUNT(*), SUM(id) FROM f.tmp;
		SELECT COUNT(*) FROM (SELECT a.id FROM f.loaded a JOIN f.loaded b ON a.k = b.id ORDER BY a.pad, b.pad LIMIT 5000) j`)
	if lines := strings.Split(got, "\n"); len(lines) != 3 || lines[2] != "5000" || !strings.HasPrefix(lines[1], "10000\t") {
		t.Errorf("got %q", got)
	}
	return ""
}

func shapes(t *testing.T, v *volume, s *server) string {
	s.sql(t, `USE f;
		CREATE TABLE parts (id INT, day DATE, v VARCHAR(200), PRIMARY KEY (id, day)) PARTITION BY HASH(id) PARTITIONS 16;
		INSERT INTO parts SELECT id, day, pad FROM loaded WHERE id < 6000;
		ALTER TABLE parts COALESCE PARTITION 12; ALTER TABLE parts ADD PARTITION PARTITIONS 3; ALTER TABLE parts TRUNCATE PARTITION p0;
		CREATE TABLE texts (id INT PRIMARY KEY, v TEXT, FULLTEXT(v)) ENGINE=InnoDB; INSERT INTO texts SELECT id, customer FROM loaded WHERE id < 2000;
		CREATE TABLE parent (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO parent SELECT id FROM loaded WHERE id < 500;
		CREATE TABLE child (id INT PRIMARY KEY, p INT, twice INT AS (id*2) STORED, KEY(twice), FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE) ENGINE=InnoDB;
		INSERT INTO child (id, p) SELECT id, id % 500 FROM loaded WHERE id < 2000; DELETE FROM parent WHERE id < 100;
		CREATE TABLE blobs (id INT PRIMARY KEY, b LONGBLOB) ENGINE=InnoDB;
		INSERT INTO blobs SELECT id, REPEAT(SHA2(id, 256), 15000) FROM loaded WHERE id < 12`)
	if got := s.sql(t, "SELECT COUNT(*) FROM f.child; SELECT SUM(LENGTH(b)) FROM f.blobs; SELECT COUNT(*) FROM f.texts WHERE MATCH(v) AGAINST ('+region' IN BOOLEAN MODE)"); got != "1600\n11520000\n2000" {
		t.Errorf("got %q", got)
	}
	return ""
}

func otherEngines(t *testing.T, v *volume, s *server) string {
	engines := []string{"MyISAM", "CSV", "ARCHIVE"}
	if s.isMariaDB() {
		s.sql(t, "INSTALL SONAME 'ha_archive'")
		engines = append(engines, "Aria")
	}
	for _, e := range engines {
		s.sql(t, fmt.Sprintf("USE f; CREATE TABLE e_%s (id INT NOT NULL, v VARCHAR(100) NOT NULL) ENGINE=%s; INSERT INTO e_%s SELECT id, customer FROM loaded WHERE id < 3000; FLUSH TABLES e_%s", e, e, e, e))
		if got := s.sql(t, "SELECT COUNT(*) FROM f.e_"+e); got != "3000" {
			t.Errorf("%s: %s rows", e, got)
		}
	}
	return strings.Join(engines, ", ")
}

// undoTruncate fills undo logs by one large transaction and waits for a
// tablespace of them to shrink.
func undoTruncate(t *testing.T, v *volume, s *server) string {
	s.sql(t, "SET GLOBAL innodb_undo_log_truncate=1, innodb_max_undo_log_size=10485760, innodb_purge_rseg_truncate_frequency=1")
	if s.isMariaDB() {
		s.sql(t, "USE f; CREATE TABLE undone ENGINE=InnoDB SELECT id, k, pad FROM loaded LIMIT 20000; UPDATE undone SET k=k+1, pad=REVERSE(pad); DELETE FROM undone; DROP TABLE undone")
		return "" // its purge truncates in its own time: the files are in use either way
	}
	s.sql(t, fmt.Sprintf(`USE f; CREATE UNDO TABLESPACE u3 ADD DATAFILE '%s/u3.ibu'; ALTER UNDO TABLESPACE innodb_undo_001 SET INACTIVE;
		CREATE TABLE undone ENGINE=InnoDB SELECT id, k, pad FROM loaded LIMIT 20000; UPDATE undone SET k=k+1, pad=REVERSE(pad); DELETE FROM undone; DROP TABLE undone`, s.path("undo")))
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		state := s.sql(t, "SELECT STATE FROM information_schema.innodb_tablespaces WHERE NAME='innodb_undo_001'")
		if state == "empty" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the undo tablespace is %s", state)
		}
	}
	s.sql(t, "ALTER UNDO TABLESPACE innodb_undo_001 SET ACTIVE; ALTER UNDO TABLESPACE u3 SET INACTIVE")
	return ""
}

func xa(t *testing.T, v *volume, s *server) string {
	s.sql(t, "USE f; CREATE TABLE x (id INT PRIMARY KEY) ENGINE=InnoDB; XA START 'one'; INSERT INTO x VALUES (1),(2); XA END 'one'; XA PREPARE 'one'")
	s.kill()
	s.mustStart(t)
	if got := s.sql(t, "XA RECOVER"); !strings.HasSuffix(got, "one") {
		t.Fatalf("XA RECOVER says %q", got)
	}
	if got := s.sql(t, "XA COMMIT 'one'; SELECT COUNT(*) FROM f.x"); got != "2" {
		t.Errorf("%s rows", got)
	}
	return ""
}
