package mysql

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// session is an SQL client that stays connected.
type session struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	bad bytes.Buffer
}

func openSession(cmd *exec.Cmd) (*session, error) {
	s := &session{cmd: cmd}
	cmd.Stderr = &s.bad
	var err error
	if s.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	return s, cmd.Start()
}

// ask sends SQL and waits for the line that it ends with.
func (s *session) ask(sql, last string) error {
	if _, err := io.WriteString(s.in, sql+"\n"); err != nil {
		return errors.Join(err, s.close())
	}
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return errors.Join(err, s.close())
		}
		if strings.TrimSpace(line) == last {
			return nil
		}
	}
}

func (s *session) close() error {
	s.in.Close()
	err := s.cmd.Wait()
	if s.bad.Len() > 0 {
		err = fmt.Errorf("%w: %s", errors.Join(err, errors.New("client")), s.bad.String())
	}
	return err
}

// ledger is a load that knows what was acknowledged: each client counts up, a
// transaction each, which puts its number into two tables and overwrites rows
// spread over a third.
type ledger struct {
	s       *server
	session int // of this ledger, so that a later one does not meet its rows
	acked   [ledgerClients]atomic.Int64
	errs    [ledgerClients]error
	ended   atomic.Bool
	wg      sync.WaitGroup
}

const (
	ledgerClients = 3
	ledgerRows    = 2000
)

// prepareLedger makes the tables, once per server.
func prepareLedger(t testing.TB, s *server) {
	t.Helper()
	s.sql(t, fmt.Sprintf(`CREATE DATABASE ledger; USE ledger;
		CREATE TABLE big (id INT PRIMARY KEY, v INT, pad VARCHAR(1000), KEY(v)) ENGINE=InnoDB;
		INSERT INTO big WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1000) SELECT i, 0, REPEAT(SHA2(i, 256), 10) FROM n;
		INSERT INTO big SELECT id+1000, 0, pad FROM big;
		CREATE TABLE a (s INT, c INT, n INT, pad VARCHAR(2000), PRIMARY KEY (s, c, n)) ENGINE=InnoDB;
		CREATE TABLE b LIKE a`))
}

var ledgerCount atomic.Int32

// startLedger begins the load.
func startLedger(s *server) *ledger {
	l := &ledger{s: s, session: int(ledgerCount.Add(1))}
	for c := range ledgerClients {
		l.wg.Go(func() { l.errs[c] = l.client(c) })
	}
	return l
}

func (l *ledger) client(c int) error {
	s, err := openSession(l.s.client("ledger"))
	if err != nil {
		return err
	}
	for n := 1; !l.ended.Load(); n++ {
		// Each client has rows of its own in big: nothing deadlocks.
		id := 1 + (n*ledgerClients*613+c)%(ledgerRows-2)
		id -= (id - c) % ledgerClients
		sql := fmt.Sprintf("BEGIN; INSERT INTO a VALUES (%d,%d,%d,REPEAT('x',%d)); INSERT INTO b VALUES (%d,%d,%d,''); UPDATE big SET v=%d, pad=REPEAT(SHA2(%d,256),%d) WHERE id=%d; COMMIT; SELECT 'done %d';",
			l.session, c, n, n*37%1900, l.session, c, n, n, n, 1+n%15, max(id, 1), n)
		if err := s.ask(sql, fmt.Sprint("done ", n)); err != nil {
			return err
		}
		l.acked[c].Store(int64(n))
	}
	return s.close()
}

// await returns once every client had so many transactions acknowledged since.
func (l *ledger) await(t testing.TB, n int64) {
	t.Helper()
	var from [ledgerClients]int64
	for c := range l.acked {
		from[c] = l.acked[c].Load()
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		slowest := n
		for c := range l.acked {
			slowest = min(slowest, l.acked[c].Load()-from[c])
		}
		if slowest >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %d transactions in %v", n, patience)
		}
	}
}

// stop ends the load; for one that nobody disturbed.
func (l *ledger) stop(t testing.TB) {
	t.Helper()
	l.ended.Store(true)
	l.wg.Wait()
	check(t, errors.Join(l.errs[:]...))
}

// broken waits for the clients of a server that was killed.
func (l *ledger) broken() { l.ended.Store(true); l.wg.Wait() }

func (l *ledger) total() (n int64) {
	for c := range l.acked {
		n += l.acked[c].Load()
	}
	return n
}

// verify wants every acknowledged transaction, whole, on a server, and nothing
// half done.
func (l *ledger) verify(t testing.TB, s *server) {
	t.Helper()
	var want [ledgerClients]int64
	for c := range l.acked {
		want[c] = l.acked[c].Load()
	}
	l.verifyFrom(t, s, want)
}

func (l *ledger) verifyFrom(t testing.TB, s *server, want [ledgerClients]int64) {
	t.Helper()
	for c, acked := range want {
		var count [2]int64
		var last [2]int64
		for i, table := range []string{"a", "b"} {
			out := s.sql(t, fmt.Sprintf("SELECT COUNT(*), IFNULL(MAX(n),0) FROM ledger.%s WHERE s=%d AND c=%d", table, l.session, c))
			if _, err := fmt.Sscan(out, &count[i], &last[i]); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
		}
		if count[0] < acked || count[0] != last[0] || count[0] != count[1] || last[0] != last[1] {
			t.Errorf("client %d had %d transactions acknowledged; %v rows up to %v are there", c, acked, count, last)
		}
	}
}

// sysbench is a call of it on the database sb.
func (s *server) sysbench(script string, args ...string) *exec.Cmd {
	return exec.Command("sysbench", append([]string{script, "--db-driver=mysql", "--mysql-socket=" + s.socket(), "--mysql-user=root",
		"--mysql-db=sb"}, args...)...)
}
