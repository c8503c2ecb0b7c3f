package mysql

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
)

// TestSoak has a server under mixed load for as long as it is told: the ledger,
// sysbench, and tables that come and go. Rounds of load end with a restart, a
// kill or a backup; lives of the filesystem's daemon end by a kill under load
// or by an unmount. Nothing acknowledged may be lost, no table be damaged, and
// what the daemon takes of the host may not grow from round to round. The
// servers have their soaks side by side. When the time is over, the life that is
// under way ends with its round.
func TestSoak(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		var note string
		env.results.record(t, p, &note, fmt.Sprintf("soak of %v: load, restarts, kills, backups", env.soak))
		k := newSoak(t, p)
		for time.Now().Before(k.end) {
			k.live(t)
			t.Logf("%s so far: %v", p.name, k)
		}
		k.s.checkTables(t)
		k.s.stop(t)
		note = k.String()
		t.Log(note)
	})
}

// soak is one under way.
type soak struct {
	*drill
	s     *server // the same as the drill's
	round time.Duration
	life  time.Duration
	least int       // rounds of a life that is not cut short by
	end   time.Time // of the soak

	lives, rounds, kills, restarts, backups int

	transactions int64
	ledgers      []*ledger // whose rows are there
}

// newSoak sizes rounds and lives so that each kind of end comes even in a short
// soak, and that in a longer one each life has measurements enough to show a
// leak.
func newSoak(t *testing.T, p *product) *soak {
	k := &soak{drill: newDrill(t, p), round: 2 * time.Second, life: max(10*time.Second, env.soak/4), least: 4}
	if env.soak >= 10*time.Minute {
		k.round, k.life, k.least = 10*time.Second, min(env.soak/3, time.Hour), 3*judged
	}
	k.s, k.end = k.server, time.Now().Add(env.soak)
	if !p.isMariaDB() {
		k.sql(t, "INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
	}
	return k
}

func (k *soak) String() string {
	return fmt.Sprintf("%d transactions acknowledged and found, %d rounds, %d restarts and %d kills of the server, %d backups started on, %d lives of the daemon",
		k.transactions, k.rounds, k.restarts, k.kills, k.backups, k.lives)
}

// kindsOfRounds is after how many rounds each way to end one has come.
const kindsOfRounds = 3

// live is one life of the daemon, from a mount to a kill or an unmount.
func (k *soak) live(t *testing.T) {
	end := time.Now().Add(k.life)
	goesOn := func(n int) bool {
		now := time.Now()
		return n < kindsOfRounds || now.Before(k.end) && (n < k.least || now.Before(end))
	}
	var home, vault []figures
	for n := 0; goesOn(n); n++ {
		l, noise := k.load(t)
		time.Sleep(k.round) // of load; nothing is awaited
		k.rounds++
		switch n % kindsOfRounds {
		case 0: // the server ends well
			noise.stop(t)
			l.stop(t)
			k.verify(t)
			k.trim(t)
			k.s.stop(t)
			home = append(home, figuresOf(t, k.home))
			k.s.mustStart(t)
			k.restarts++
		case 1: // it is killed under load
			k.s.kill()
			noise.broken()
			l.broken()
			home = append(home, figuresOf(t, k.home))
			k.s.mustStart(t)
			k.kills++
			k.verify(t)
		case 2: // it is backed up under load, and the backup is started
			k.backUp(t, l)
			vault = append(vault, figuresOf(t, k.vault))
			noise.stop(t)
			l.stop(t)
			k.verify(t)
			k.s.checkTables(t)
			k.backups++
		}
	}
	k.lives++
	report(t, k.product.name+", the server's daemon", home)
	report(t, k.product.name+", the backups' daemon", vault)
	if k.lives%2 == 0 {
		wantAfterRemount(t, k.home, k.s)
		k.vault.remount(t)
		return
	}
	l, noise := k.load(t)
	time.Sleep(k.round)
	k.home.kill()
	k.s.kill()
	noise.broken()
	l.broken()
	k.home.clear(t)
	k.home.mustMount(t)
	k.s.mustStart(t)
	k.verify(t)
	k.s.checkTables(t)
}

// load starts the ledger and the rest.
func (k *soak) load(t *testing.T) (*ledger, *noise) {
	t.Helper()
	l := startLedger(k.s)
	k.ledgers = append(k.ledgers, l)
	n, err := startNoise(k.s, k.rounds)
	check(t, err)
	return l, n
}

func (k *soak) verify(t *testing.T) {
	t.Helper()
	for _, l := range k.ledgers {
		l.verify(t, k.s)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// trim drops what was verified, so that an hour's load does not fill the disk.
func (k *soak) trim(t *testing.T) {
	t.Helper()
	for _, l := range k.ledgers {
		k.transactions += l.total()
	}
	k.ledgers = nil
	k.sql(t, "TRUNCATE ledger.a; TRUNCATE ledger.b; FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW()")
}

// backUp copies the server onto the other volume while it works, and starts a
// server on the copy, which must have what was acknowledged before.
func (k *soak) backUp(t *testing.T, l *ledger) {
	t.Helper()
	var at [ledgerClients]int64
	for c := range at {
		at[c] = l.acked[c].Load()
	}
	dir := fmt.Sprintf("%s/backup%d", k.vault.mnt, k.backups)
	s := k.cloned(t, dir)
	if k.isMariaDB() {
		for _, args := range [][]string{{"--backup", "--socket=" + k.s.socket(), "--user=root"}, {"--prepare"}} {
			args = append([]string{"mariadb-backup", "--no-defaults", "--target-dir=" + s.datadir()}, args...)
			command(t, k.asMySQL(args...))
		}
	} else {
		k.sql(t, fmt.Sprintf("CLONE LOCAL DATA DIRECTORY = '%s'", s.datadir()))
	}
	s.mustStart(t)
	l.verifyFrom(t, s, at)
	s.checkTables(t)
	s.stop(t)
	check(t, os.RemoveAll(dir))
}

// noise is load that keeps no account: sysbench, and tables that come and go.
type noise struct {
	bench *process.Process
	out   strings.Builder
	ended atomic.Bool
	wg    sync.WaitGroup
	err   error
}

func startNoise(s *server, n int) (*noise, error) {
	k := &noise{}
	cmd := s.sysbench("oltp_read_write", "--tables=4", fmt.Sprint("--table-size=", size(2000, 200_000)), "--threads=2", "--time=0",
		"--events=0", fmt.Sprint("--rand-seed=", n+1), "run")
	cmd.Stdout, cmd.Stderr = &k.out, &k.out
	var err error
	if k.bench, err = process.Start(cmd); err != nil {
		return nil, err
	}
	k.wg.Go(func() { k.err = k.churn(s) })
	return k, nil
}

// churn makes, changes and drops tables.
func (k *noise) churn(s *server) error {
	c, err := openSession(s.client("other"))
	if err != nil {
		return err
	}
	for i := 0; !k.ended.Load(); i++ {
		sql := fmt.Sprintf(`DROP TABLE IF EXISTS churn, churned; CREATE TABLE churn ENGINE=InnoDB SELECT id, v, pad FROM ledger.big LIMIT %d;
			ALTER TABLE churn ADD PRIMARY KEY (id); ALTER TABLE churn ADD COLUMN c INT DEFAULT 3; UPDATE churn SET pad=REVERSE(pad);
			OPTIMIZE TABLE churn; RENAME TABLE churn TO churned; TRUNCATE TABLE churned; DROP TABLE churned;
			CREATE TEMPORARY TABLE tmp ENGINE=InnoDB SELECT * FROM ledger.big ORDER BY pad LIMIT 300; DROP TEMPORARY TABLE tmp; SELECT 'churned %d';`, 200+i%500, i)
		if err := c.ask(sql, fmt.Sprint("churned ", i)); err != nil {
			return err
		}
	}
	return c.close()
}

// stop ends the load, which must not have failed.
func (k *noise) stop(t *testing.T) {
	t.Helper()
	k.ended.Store(true)
	k.wg.Wait()
	check(t, k.err)
	if k.bench.Exited() {
		t.Fatalf("sysbench ended by itself: %s", tail(k.out.String(), 2000))
	}
	k.bench.Kill()
}

// broken ends the load on a server that is gone.
func (k *noise) broken() {
	k.ended.Store(true)
	k.wg.Wait()
	k.bench.Kill()
}
