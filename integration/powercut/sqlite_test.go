package powercut

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// session is a database's command line, fed with SQL whose last answer is a
// line.
type session struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	bad strings.Builder
}

func openSession(args ...string) (*session, error) {
	s := &session{cmd: exec.Command(args[0], args[1:]...)}
	s.cmd.Stderr = &s.bad
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	return s, s.cmd.Start()
}

// ask sends SQL and waits for the line it ends with.
func (s *session) ask(sql, last string) error {
	if _, err := io.WriteString(s.in, sql+"\n"); err != nil {
		return errors.Join(err, s.close())
	}
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%s: %w: %v", sql, err, s.close())
		}
		if strings.TrimSpace(line) == last {
			return nil
		}
	}
}

func (s *session) close() error {
	s.in.Close()
	if err := s.cmd.Wait(); err != nil || s.bad.Len() > 0 {
		return fmt.Errorf("%v: %s", err, s.bad.String())
	}
	return nil
}

// sqlite commits small transactions to two databases, one with a write-ahead
// log and one with a rollback journal.
type sqlite struct {
	steps [2][]step
}

var sqliteModes = [2]string{"wal", "delete"}

// sqliteSync is what makes a commit durable: with FULL, sqlite does not sync
// the directory after it removed a rollback journal, and the removal is the
// commit. Plain ext4 loses the last one, too.
var sqliteSync = [2]string{"FULL", "EXTRA"}

func newSQLite() *sqlite { return &sqlite{} }

func (w *sqlite) name() string { return "sqlite" }

func (w *sqlite) setup(dir string) error {
	for _, mode := range sqliteModes {
		err := do("sqlite3", filepath.Join(dir, mode), "PRAGMA journal_mode="+mode+"; CREATE TABLE a (n INTEGER PRIMARY KEY, pad BLOB); CREATE TABLE b (n INTEGER PRIMARY KEY);")
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *sqlite) run(dir string, c *clock, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	var errs [2]error
	for k, mode := range sqliteModes {
		wg.Go(func() {
			s, err := openSession("stdbuf", "-oL", "sqlite3", "-batch", "-bail", filepath.Join(dir, mode))
			if err != nil {
				errs[k] = err
				return
			}
			err = s.ask(fmt.Sprintf("PRAGMA synchronous=%s; PRAGMA wal_autocheckpoint=40; PRAGMA cache_size=20; SELECT 'begin';", sqliteSync[k]), "begin")
			for n := 1; err == nil && !stopped(stop); n++ {
				st := step{c.now(), never}
				err = s.ask(fmt.Sprintf("BEGIN; INSERT INTO a VALUES (%d, randomblob(%d)); INSERT INTO b VALUES (%d); UPDATE a SET pad=randomblob(300) WHERE n=1+abs(random())%%%d; COMMIT; SELECT 'done %d';",
					n, 50+n*977%6000, n, n, n), fmt.Sprint("done ", n))
				if err == nil {
					st.acked = c.ack()
				}
				w.steps[k] = append(w.steps[k], st)
			}
			if err == nil {
				err = s.close()
			}
			errs[k] = err
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

func (w *sqlite) verify(dir string, at uint64, _ bool) (problems []string) {
	for k, mode := range sqliteModes {
		acked, begun := counts(w.steps[k], at)
		out, err := exec.Command("sqlite3", filepath.Join(dir, mode), "PRAGMA integrity_check; SELECT count(*), ifnull(max(n),0) FROM a; SELECT count(*), ifnull(max(n),0) FROM b;").CombinedOutput()
		if p := rowsWrong(string(out), err, acked, begun); p != "" {
			problems = append(problems, mode+": "+p)
		}
	}
	return problems
}

// rowsWrong judges "ok" and two lines of "count|max": rows are numbered from 1
// in the order of commits.
func rowsWrong(out string, err error, acked, begun int) string {
	lines := strings.Fields(out)
	if err != nil || len(lines) != 3 || lines[0] != "ok" || lines[1] != lines[2] {
		return fmt.Sprintf("%v: %.500s (%d commits acknowledged)", err, out, acked)
	}
	var count, highest int
	fmt.Sscanf(lines[1], "%d|%d", &count, &highest)
	if count != highest || count < acked || count > begun {
		return fmt.Sprintf("%d rows up to %d; %d commits acknowledged, %d begun", count, highest, acked, begun)
	}
	return ""
}
