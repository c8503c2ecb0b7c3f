package powercut

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/plyfs/plyfs/integration/process"
)

// mariadb is a real server with a small buffer pool, whose clients note each
// commit that was acknowledged.
type mariadb struct {
	doublewrite bool
	sockets     string // socket and error log; not on the disk under test
	steps       [mariadbClients][]step

	server *process.Process
}

const (
	mariadbClients = 3
	mariadbRows    = 4000
)

var mariadbCount atomic.Int32

func newMariaDB(doublewrite bool) *mariadb {
	return &mariadb{doublewrite: doublewrite, sockets: filepath.Join(env.scratch, fmt.Sprint("db", mariadbCount.Add(1)))}
}

func (w *mariadb) name() string { return "mariadb" }

func (w *mariadb) socket() string { return filepath.Join(w.sockets, "sock") }

func (w *mariadb) setup(dir string) error {
	u, err := user.Lookup("mysql")
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.MkdirAll(w.sockets, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(w.sockets, uid, gid), os.Chown(dir, uid, gid)); err != nil {
		return err
	}
	err = do("mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+filepath.Join(dir, "data"),
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=16M")
	if err != nil {
		return err
	}
	if err := w.start(dir); err != nil {
		return err
	}
	_, err = w.sql(fmt.Sprintf(`CREATE DATABASE p; USE p;
		CREATE TABLE big (id INT PRIMARY KEY, v INT, pad VARCHAR(3000), KEY(v)) ENGINE=InnoDB;
		INSERT INTO big SELECT seq, 0, REPEAT(MD5(seq), 60) FROM seq_1_to_%d;
		CREATE TABLE a (c INT, n INT, pad VARCHAR(2000), PRIMARY KEY (c, n)) ENGINE=InnoDB; CREATE TABLE b LIKE a`, mariadbRows))
	w.server.Signal(syscall.SIGTERM)
	<-w.server.Done()
	return err
}

// start runs the server and waits until it answers.
func (w *mariadb) start(dir string) error {
	log := filepath.Join(w.sockets, "error.log")
	os.Remove(log)
	dw := "--innodb-doublewrite=0"
	if w.doublewrite {
		dw = "--innodb-doublewrite=1"
	}
	cmd := exec.Command("mariadbd", "--no-defaults", "--user=mysql", "--datadir="+filepath.Join(dir, "data"), "--socket="+w.socket(),
		"--skip-networking", "--pid-file="+filepath.Join(w.sockets, "pid"), "--log-error="+log, "--innodb-flush-method=O_DIRECT",
		"--innodb-use-native-aio=1", "--innodb-buffer-pool-size=6M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=1",
		"--log-bin=binlog", "--sync-binlog=1", "--server-id=1", "--innodb-max-dirty-pages-pct=5", dw)
	var err error
	if w.server, err = process.Start(cmd); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(30 * time.Millisecond) {
		_, err := w.sql("SELECT 1")
		if err == nil {
			return nil
		}
		if !w.server.Exited() && time.Now().Before(end) {
			continue
		}
		w.kill()
		b, _ := os.ReadFile(log)
		if len(b) > 4000 {
			b = b[len(b)-4000:]
		}
		return fmt.Errorf("mariadbd does not start: %w\n%s", err, b)
	}
}

func (w *mariadb) kill() {
	w.server.Kill()
}

func (w *mariadb) client() []string {
	return []string{"mariadb", "--no-defaults", "--socket=" + w.socket(), "--user=root", "--batch", "--skip-column-names", "--unbuffered"}
}

func (w *mariadb) sql(sql string) (string, error) {
	c := append(w.client(), "-e", sql)
	out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

func (w *mariadb) run(dir string, c *clock, stop <-chan struct{}) error {
	if err := w.start(dir); err != nil {
		return err
	}
	defer w.kill()
	var wg sync.WaitGroup
	var errs [mariadbClients]error
	for k := range mariadbClients {
		wg.Go(func() {
			s, err := openSession(append(w.client(), "p")...)
			if err != nil {
				errs[k] = err
				return
			}
			for n := 1; err == nil && !stopped(stop); n++ {
				st := step{c.now(), never}
				err = s.ask(fmt.Sprintf("BEGIN; INSERT INTO a VALUES (%d,%d,REPEAT('x',%d)); INSERT INTO b VALUES (%d,%d,''); UPDATE big SET v=%d, pad=REPEAT(MD5(%d),%d) WHERE id IN (%d,%d); COMMIT; SELECT 'done %d';",
					k, n, n*37%1900, k, n, n, n, n%90, 1+(n*mariadbClients+k)*613%mariadbRows, 1+(n*mariadbClients+k)*614%mariadbRows, n), fmt.Sprint("done ", n))
				// Another client may have had the rows: then the transaction is
				// rolled back, the client ends, and that is no failure of a disk.
				if err == nil {
					st.acked = c.ack()
				}
				w.steps[k] = append(w.steps[k], st)
			}
			if err != nil && !strings.Contains(err.Error(), "Deadlock") {
				errs[k] = err
			}
			s.in.Close()
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

func (w *mariadb) verify(dir string, at uint64, _ bool) (problems []string) {
	if err := w.start(dir); err != nil {
		return []string{err.Error()}
	}
	defer w.kill()
	// A server that has just recovered finds damage where there is none while
	// it still purges (MDEV-35227).
	out, err := w.sql("SET GLOBAL innodb_max_purge_lag_wait=0; CHECK TABLE p.a, p.b, p.big EXTENDED")
	if err != nil || strings.Count(out, "\tOK\n") != 3 {
		problems = append(problems, fmt.Sprintf("CHECK TABLE: %s, %v", out, err))
	}
	for k := range mariadbClients {
		acked, begun := counts(w.steps[k], at)
		out, err := w.sql(fmt.Sprintf("SELECT 'ok'; SELECT CONCAT(COUNT(*),'|',IFNULL(MAX(n),0)) FROM p.a WHERE c=%d; SELECT CONCAT(COUNT(*),'|',IFNULL(MAX(n),0)) FROM p.b WHERE c=%d", k, k))
		if p := rowsWrong(out, err, acked, begun); p != "" {
			problems = append(problems, p)
		}
	}
	if out, err := w.sql("SELECT COUNT(*) FROM p.big"); err != nil || strings.TrimSpace(out) != fmt.Sprint(mariadbRows) {
		problems = append(problems, fmt.Sprintf("big: %s, %v", out, err))
	}
	return problems
}
