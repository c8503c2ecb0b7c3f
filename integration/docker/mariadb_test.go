package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mariadbLine makes a data directory where there is none, as MariaDB's own
// image does, and starts the server.
const mariadbLine = "[ -d /var/lib/mysql/mysql ] || mariadb-install-db --user=mysql --datadir=/var/lib/mysql --skip-test-db >/tmp/install 2>&1 || { cat /tmp/install; exit 1; }; " +
	"exec mariadbd --user=mysql --datadir=/var/lib/mysql --skip-networking"

// mariadb starts a server whose data directory is the volume, as -v or --mount
// gives it, and returns when it answers.
func (b *bench) mariadb(name string, options ...string) {
	b.t.Helper()
	b.container(name, append(options, image, "sh", "-c", mariadbLine)...)
	b.awaitMariaDB(name)
}

// awaitMariaDB waits until the server in a container answers.
func (b *bench) awaitMariaDB(name string) {
	b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		_, err := b.try("exec", name, "mariadb", "-e", "select 1")
		if err == nil {
			return
		}
		// A container that is restarted is not running for a moment.
		state, _ := b.try("inspect", "-f", "{{.State.Status}}", name)
		if time.Now().After(end) || state == "exited" || state == "dead" {
			logs, _ := b.try("logs", name)
			b.t.Fatalf("MariaDB does not answer, its container is %s: %v\n%s", state, err, logs)
		}
	}
}

// sql runs statements in a container's server.
func (b *bench) sql(container, statements string) string {
	b.t.Helper()
	return b.do("exec", container, "mariadb", "-N", "-B", "-e", statements)
}

// insert adds rows that are committed when it returns.
func (b *bench) insert(container string, n int) {
	b.t.Helper()
	var values []string
	for i := range n {
		values = append(values, fmt.Sprintf("(repeat('%d', 100))", i%10))
	}
	b.sql(container, "insert into plyfs.rows_ (text) values "+strings.Join(values, ","))
}

func (b *bench) wantRows(container string, n int) {
	b.t.Helper()
	b.want("rows", b.sql(container, "select count(*), sum(length(text)) from plyfs.rows_; check table plyfs.rows_ extended"),
		fmt.Sprintf("%d\t%d\nplyfs.rows_\tcheck\tstatus\tOK", n, n*100))
}

// Rows survive whatever becomes of the container, the plugin, the volume's
// daemon and dockerd.
func TestMariaDB(t *testing.T) {
	b := newBench(t)
	b.volume("db", "block-size=16384")
	b.mariadb("db1", "-v", "db:/var/lib/mysql")
	b.sql("db1", "create database plyfs; create table plyfs.rows_ (id int primary key auto_increment, text varchar(200)) engine=innodb")
	b.insert("db1", 100)

	t.Log("docker rm")
	b.do("rm", "-f", "db1")
	b.mariadb("db2", "--mount", "type=volume,src=db,dst=/var/lib/mysql")
	b.wantRows("db2", 100)

	t.Log("kill -9 of the plugin")
	b.killPlugin()
	b.insert("db2", 100)
	b.wantRows("db2", 200)
	b.restartPlugin()
	b.wantRows("db2", 200)
	b.want("uses", b.do("volume", "inspect", "-f", "{{.Status.uses}}", "db"), "1")
	b.do("stop", "db2")
	if b.isMounted("db") {
		t.Error("mounted after its only container has stopped")
	}
	b.do("start", "db2")
	b.awaitMariaDB("db2")
	b.wantRows("db2", 200)

	t.Log("kill -9 of the volume's daemon")
	b.insert("db2", 100)
	b.killDaemon("db")
	b.do("rm", "-f", "db2")
	b.mariadb("db3", "-v", "db:/var/lib/mysql", "--restart=always")
	b.wantRows("db3", 300)

	t.Log("dockerd is restarted")
	b.insert("db3", 100)
	b.restartDockerd(unix.SIGTERM)
	b.awaitMariaDB("db3")
	b.wantRows("db3", 400)

	t.Log("dockerd is killed")
	b.insert("db3", 100)
	b.restartDockerd(unix.SIGKILL)
	b.awaitMariaDB("db3")
	b.wantRows("db3", 500)
	b.want("uses", b.do("volume", "inspect", "-f", "{{.Status.uses}}", "db"), "1")

	t.Log("the daemon is killed under a container that others share")
	b.container("other", "-v", "db:/data", image, "sleep", "1000")
	b.want("uses", b.do("volume", "inspect", "-f", "{{.Status.uses}}", "db"), "2")
	b.killDaemon("db")
	b.do("rm", "-f", "db3")
	b.mariadb("db4", "-v", "db:/var/lib/mysql")
	b.wantRows("db4", 500)
	b.fails([]string{"exec", "other", "ls", "/data/mysql"}, "ndpoint")
	b.do("restart", "-t", "0", "other")
	if got := b.do("exec", "other", "ls", "/data/plyfs/rows_.ibd"); got != "/data/plyfs/rows_.ibd" {
		t.Error("a restarted container does not see the table's file")
	}
	b.do("rm", "-f", "other")
	b.do("rm", "-f", "db4")
	if b.isMounted("db") {
		t.Error("mounted for nobody")
	}
}
