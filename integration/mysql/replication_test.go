package mysql

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestReplication has a source on a volume of one machine group and a replica
// on a volume of another, with other keys. The replica starts from a backup,
// follows by GTID under load, loses its filesystem once, and takes over when
// the source's is killed: semi-synchronous, so that nothing acknowledged may
// be lost. Then the old source comes back and follows.
func TestReplication(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		env.results.record(t, p, nil, "replication between two machine groups by GTID, failover under load, and back")
		stage := stages(t)
		east, west := newVolume(t, group{"prod", "east"}), newVolume(t, group{"prod", "west"})
		opts := []string{"--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0", "--relay-log-recovery=1"}
		if !p.isMariaDB() {
			opts = append(opts, "--plugin-load-add=semisync_source.so", "--plugin-load-add=semisync_replica.so")
		}
		source := newServer(t, p, east.mnt+"/mysql", append(opts, "--relay-log="+east.mnt+"/mysql/binlog/relay")...)
		replica := newServer(t, p, west.mnt+"/mysql", append(opts, "--relay-log="+west.mnt+"/mysql/binlog/relay")...)
		source.listen(t)
		source.install(t)
		source.mustStart(t)
		prepareLedger(t, source)
		source.replicationUser(t)
		l := startLedger(source)
		l.await(t, 3)
		replica.listen(t)
		stage("the source runs")
		seed(t, source, replica, west)
		replica.follow(t, source)
		l.await(t, 10)

		stage("the replica follows")
		// The replica's filesystem dies; the load does not notice.
		west.kill()
		replica.kill()
		l.await(t, 5)
		west.clear(t)
		west.mustMount(t)
		replica.mustStart(t)
		replica.sql(t, replica.startReplica())
		l.await(t, 10)
		l.stop(t)
		replica.catchUp(t, source)
		wantSame(t, "the replica", replica.checksums(t), source.checksums(t))

		stage("the replica's filesystem died")
		// The source's filesystem dies, and the source with it. From here on
		// the replica has to have what was acknowledged.
		source.semiSync(t, replica)
		l2 := startLedger(source)
		l2.await(t, 10)
		east.kill()
		source.kill()
		l2.broken()
		replica.promote(t)
		l.verify(t, replica)
		l2.verify(t, replica)
		l3 := startLedger(replica)
		l3.await(t, 10)

		stage("failed over")
		// The old source comes back. What it may have committed and nobody
		// acknowledged is rolled off by seeding it anew.
		east.clear(t)
		east.mustMount(t)
		source.mustStart(t)
		source.checkTables(t)
		l.verify(t, source)
		l2.verify(t, source)
		source.stop(t)
		stage("the old source is whole")
		old := newServer(t, p, east.mnt+"/again", append(opts, "--relay-log="+east.mnt+"/again/binlog/relay")...)
		old.listen(t)
		seed(t, replica, old, east)
		stage("the old source is seeded")
		old.follow(t, replica)
		l3.await(t, 5)
		l3.stop(t)
		old.catchUp(t, replica)
		wantSame(t, "the old source", old.checksums(t), replica.checksums(t))
		old.checkTables(t)
		old.stop(t)
		replica.stop(t)
	})
}

// listen gives the server a free port.
func (s *server) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s.port = l.Addr().(*net.TCPAddr).Port
	check(t, l.Close())
}

func (s *server) replicationUser(t testing.TB) {
	t.Helper()
	grant := "CREATE USER repl@'%' IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'"
	if !s.isMariaDB() {
		grant += "; GRANT BACKUP_ADMIN ON *.* TO repl@'%'"
	}
	s.sql(t, grant)
}

// seed makes the replica's data from a backup of the source, which is under
// load, and starts it.
func seed(t *testing.T, source, replica *server, v *volume) {
	t.Helper()
	if source.isMariaDB() {
		dir := v.mnt + "/seed" + fmt.Sprint(replica.port)
		source.owned(t, dir)
		run := func(args ...string) {
			t.Helper()
			command(t, source.asMySQL(append([]string{"mariadb-backup", "--no-defaults", "--target-dir=" + dir}, args...)...))
		}
		run("--backup", "--socket="+source.socket(), "--user=root")
		run("--prepare")
		run("--move-back", "--datadir="+replica.datadir(), "--innodb-log-group-home-dir="+replica.path("redo"), "--innodb-undo-directory="+replica.path("undo"))
		replica.mustStart(t)
		replica.sql(t, "SET GLOBAL gtid_slave_pos='"+gtidOfBackup(t, source, dir)+"'")
		return
	}
	replica.install(t)
	replica.mustStart(t)
	load := "INSTALL PLUGIN clone SONAME 'mysql_clone.so'"
	if source.sql(t, "SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_name='clone'") == "0" {
		source.sql(t, load)
	}
	replica.sql(t, fmt.Sprintf("%s; SET GLOBAL clone_valid_donor_list='127.0.0.1:%d'", load, source.port))
	// The server stops when it has the clone, for a supervisor to start it; the
	// client may see the connection end first.
	out, err := replica.try(fmt.Sprintf("CLONE INSTANCE FROM repl@'127.0.0.1':%d IDENTIFIED BY 'secret' REQUIRE SSL", source.port))
	if err == nil || !strings.Contains(err.Error(), "3707") && !strings.Contains(err.Error(), "2013") {
		t.Fatalf("clone: %s, %v\n%s", out, err, tail(replica.log(), 3000))
	}
	if !replica.proc.Wait(patience) {
		t.Fatal("the server does not stop after the clone")
	}
	replica.mustStart(t)
}

// gtidOfBackup is the position that mariadb-backup noted.
func gtidOfBackup(t *testing.T, s *server, dir string) string {
	t.Helper()
	for _, name := range []string{"mariadb_backup_binlog_info", "xtrabackup_binlog_info"} {
		out, err := s.command("cat", dir+"/"+name).Output()
		if f := strings.Fields(string(out)); err == nil && len(f) == 3 {
			return f[2]
		}
	}
	t.Fatal("the backup has no binlog position")
	return ""
}

// follow makes the server a replica of source.
func (s *server) follow(t *testing.T, source *server) {
	t.Helper()
	if s.isMariaDB() {
		s.sql(t, fmt.Sprintf("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=%d, MASTER_USER='repl', MASTER_PASSWORD='secret', MASTER_USE_GTID=slave_pos", source.port))
	} else {
		s.sql(t, fmt.Sprintf("CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=%d, SOURCE_USER='repl', SOURCE_PASSWORD='secret', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1", source.port))
	}
	s.sql(t, s.startReplica())
}

func (s *server) startReplica() string {
	if s.isMariaDB() {
		return "START SLAVE"
	}
	return "START REPLICA"
}

// gtids is what the server has executed.
func (s *server) gtids(t testing.TB) string {
	t.Helper()
	if s.isMariaDB() {
		return s.sql(t, "SELECT @@gtid_binlog_pos")
	}
	return strings.ReplaceAll(strings.ReplaceAll(s.sql(t, "SELECT @@gtid_executed"), "\\n", ""), "\n", "")
}

// catchUp waits until the replica has all that source, which rests, has.
func (s *server) catchUp(t *testing.T, source *server) {
	t.Helper()
	wait := fmt.Sprintf("SELECT MASTER_GTID_WAIT('%s', %d)", source.gtids(t), int(patience.Seconds()))
	if !s.isMariaDB() {
		wait = fmt.Sprintf("SELECT WAIT_FOR_EXECUTED_GTID_SET('%s', %d)", source.gtids(t), int(patience.Seconds()))
	}
	if got := s.sql(t, wait); got != "0" {
		t.Fatalf("the replica does not catch up: %s\n%s", s.replicaStatus(), tail(s.log(), 3000))
	}
}

func (s *server) replicaStatus() string {
	sql := "SHOW REPLICA STATUS\\G"
	if s.isMariaDB() {
		sql = "SHOW SLAVE STATUS\\G"
	}
	out, _ := s.try(sql)
	return out
}

// semiSync has the source acknowledge a commit only once the replica has it on
// its mount.
func (s *server) semiSync(t *testing.T, replica *server) {
	t.Helper()
	words := []string{"rpl_semi_sync_source", "rpl_semi_sync_replica", "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD", "Rpl_semi_sync_source_status"}
	point := "wait_point=AFTER_SYNC"
	if s.isMariaDB() {
		words = []string{"rpl_semi_sync_master", "rpl_semi_sync_slave", "STOP SLAVE IO_THREAD; START SLAVE IO_THREAD", "Rpl_semi_sync_master_status"}
	}
	s.sql(t, fmt.Sprintf("SET GLOBAL %s_enabled=1, %s_timeout=3600000, %s_%s", words[0], words[0], words[0], point))
	replica.sql(t, fmt.Sprintf("SET GLOBAL %s_enabled=1; %s", words[1], words[2]))
	clients := strings.TrimSuffix(words[3], "status") + "clients"
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out := s.sql(t, "SHOW STATUS LIKE '"+words[3]+"'; SHOW STATUS LIKE '"+clients+"'")
		if strings.Contains(out, "ON") && strings.HasSuffix(out, "\t1") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not semi-synchronous: %s", out)
		}
	}
}

// promote makes the replica a server of its own once it has applied all that
// it received.
func (s *server) promote(t *testing.T) {
	t.Helper()
	stop, reset := "STOP REPLICA IO_THREAD", "STOP REPLICA; RESET REPLICA ALL"
	if s.isMariaDB() {
		stop, reset = "STOP SLAVE IO_THREAD", "STOP SLAVE; RESET SLAVE ALL"
	}
	s.sql(t, stop)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		status := s.replicaStatus()
		if strings.Contains(status, "read all relay log; waiting for more updates") || strings.Contains(status, "has read all relay log") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the replica does not apply its relay log:\n%s", status)
		}
	}
	s.sql(t, reset)
}
