package integration

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"golang.org/x/sys/unix"
)

// counter is a client that inserts 1, 2, 3, ... each in a transaction of its
// own, and knows the last that the server acknowledged.
type counter struct {
	cmd   *exec.Cmd
	acked atomic.Int64
	done  chan struct{}
}

func (m *mariadb) count(t testing.TB, from int64) *counter {
	t.Helper()
	c := &counter{
		cmd:  exec.Command("mariadb", "--no-defaults", "--socket="+m.socket(), "--user=root", "--batch", "--unbuffered", "--skip-column-names"),
		done: make(chan struct{}),
	}
	in, err := c.cmd.StdinPipe()
	check(t, err)
	out, err := c.cmd.StdoutPipe()
	check(t, err)
	check(t, c.cmd.Start())
	c.acked.Store(from)
	go func() {
		defer close(c.done)
		lines := bufio.NewScanner(out)
		for i := from + 1; ; i++ {
			if _, err := fmt.Fprintf(in, "INSERT INTO sb.acked VALUES (%d, REPEAT('x', 200)); SELECT %d;\n", i, i); err != nil || !lines.Scan() {
				break
			}
			n, err := strconv.ParseInt(strings.TrimSpace(lines.Text()), 10, 64)
			if err != nil {
				break
			}
			c.acked.Store(n)
		}
		in.Close()
		c.cmd.Wait()
	}()
	return c
}

// TestKillKeepsCommits kills the daemon and the server under load, again and
// again, on volumes with their journals in several places: every transaction
// that the server acknowledged is there afterwards, every table is whole, and
// the last round ends cleanly with an empty journal.
func TestKillKeepsCommits(t *testing.T) {
	for name, opts := range map[string]func(root string) []string{
		"default":       func(string) []string { return nil },
		"small journal": func(string) []string { return []string{"-o", "journal-size=16M"} },
		"journal elsewhere": func(root string) []string {
			return []string{"-o", "journal=" + filepath.Join(root, "journal")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolume(t)
			check(t, unix.Mkdir(filepath.Join(v.root, "journal"), 0o700))
			v.opts = append(v.opts, opts(v.root)...)
			v.mustMount(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the daemon's log:\n%s", tail(v.log(), 3000))
				}
				v.close(t)
			})
			m := installMariaDB(t, v.mnt)
			t.Cleanup(m.kill)
			check(t, m.start("--innodb-doublewrite=0"))
			m.prepare(t)
			m.sql(t, "CREATE TABLE sb.acked (id BIGINT PRIMARY KEY, filler VARCHAR(200)) ENGINE=InnoDB")
			acked := int64(0)
			for round := range steps(3) {
				load, err := process.Start(m.sysbench("--time=60", "run"))
				check(t, err)
				c := m.count(t, acked)
				time.Sleep(time.Duration(900+round*700) * time.Millisecond)
				v.daemon.Signal(unix.SIGKILL)
				m.kill()
				load.Wait(startTimeout)
				<-c.done
				v.kill(t)
				check(t, v.mount())
				if err := m.start("--innodb-doublewrite=0"); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				got, err := strconv.ParseInt(m.sql(t, "SELECT COUNT(*) FROM sb.acked"), 10, 64)
				check(t, err)
				if want := c.acked.Load(); got < want || got > want+1 {
					t.Fatalf("round %d: %d rows, %d were acknowledged", round, got, want)
				}
				t.Logf("round %d: %d transactions acknowledged", round, c.acked.Load()-acked)
				acked = got
				m.checkTables(t)
			}
			m.stop(t)
		})
	}
}
