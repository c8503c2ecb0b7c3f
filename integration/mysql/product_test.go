package mysql

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/integration/scratch"
)

// product is a database server and its tools, as installed somewhere.
type product struct {
	name     string // "MariaDB" or "MySQL"
	version  string
	root     string // the tree that its programs run in, "" for this machine
	uid, gid int    // of its user mysql
}

func (p *product) isMariaDB() bool { return p.name == "MariaDB" }

// findProducts fills env.products with both servers, or the one that is asked
// for.
func findProducts() error {
	only := os.Getenv("PLYFS_SERVERS")
	mariadb, mysql := &product{name: "MariaDB"}, &product{name: "MySQL"}
	if only != mysql.name {
		env.products = append(env.products, mariadb)
	}
	if only != mariadb.name {
		var err error
		if mysql.root, err = sidTree(); err != nil {
			return err
		}
		env.products = append(env.products, mysql)
	}
	for _, p := range env.products {
		if err := p.identify(); err != nil {
			return err
		}
	}
	return nil
}

// sidTree is a directory with Debian sid and its mysql-server.
func sidTree() (string, error) {
	if dir := os.Getenv("PLYFS_SID"); dir != "" {
		return dir, nil
	}
	cmd := exec.Command("../sid.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("sid.sh: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// identify looks up version and user, and gives the scratch directory its
// place in the tree.
func (p *product) identify() error {
	if p.root != "" {
		// An empty directory is what a run that was killed leaves there. That of
		// one that still runs must stay: to remove it takes away what is mounted
		// there in the namespaces of that run's servers.
		for _, dir := range scratch.Stale(filepath.Join(p.root, filepath.Dir(env.scratch)), runName) {
			os.Remove(dir)
		}
		if err := os.MkdirAll(filepath.Join(p.root, env.scratch), 0o755); err != nil {
			return err
		}
	}
	out, err := p.command(p.daemon(), "--no-defaults", "--version").Output()
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	for i, word := range strings.Fields(string(out)) {
		if word == "Ver" {
			p.version, _, _ = strings.Cut(strings.Fields(string(out))[i+1], "-")
		}
	}
	for _, id := range []struct {
		flag string
		to   *int
	}{{"-u", &p.uid}, {"-g", &p.gid}} {
		out, err := p.command("id", id.flag, "mysql").Output()
		if err == nil {
			*id.to, err = strconv.Atoi(strings.TrimSpace(string(out)))
		}
		if err != nil {
			return fmt.Errorf("%s has no user mysql: %w", p.name, err)
		}
	}
	return nil
}

// enter is run in a mount namespace of its own, in which the scratch directory and what is
// mounted there, now or later, is seen in a tree too: it alone is shared with this
// process, the rest was private here already. Nothing of it outlives
// the process. Arguments: tree, scratch directory, command.
const enter = `set -e
tree=$1 scratch=$2; shift 2
mount --rbind "$scratch" "$tree$scratch"
mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
mknod -m 666 "$tree/dev/null" c 1 3
mknod -m 666 "$tree/dev/zero" c 1 5
mknod -m 666 "$tree/dev/random" c 1 8
mknod -m 666 "$tree/dev/urandom" c 1 9
exec chroot "$tree" "$@"`

// command is a program of the product.
func (p *product) command(args ...string) *exec.Cmd {
	if p.root != "" {
		args = append([]string{"unshare", "--mount", "--propagation", "unchanged", "sh", "-c", enter, "sh", p.root, env.scratch}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// asMySQL is a program of the product that runs as the user mysql and dies
// with whoever spawns it.
func (p *product) asMySQL(args ...string) *exec.Cmd {
	return p.command(append([]string{"setpriv", "--reuid", fmt.Sprint(p.uid), "--regid", fmt.Sprint(p.gid),
		"--clear-groups", "--pdeathsig", "KILL"}, args...)...)
}

// owned makes directories that belong to the user mysql.
func (p *product) owned(t testing.TB, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		check(t, errors.Join(os.MkdirAll(d, 0o750), os.Chown(d, p.uid, p.gid)))
	}
}

func (p *product) daemon() string {
	if p.isMariaDB() {
		return "mariadbd"
	}
	return "mysqld"
}

func (p *product) dumper() string {
	if p.isMariaDB() {
		return "mariadb-dump"
	}
	return "mysqldump"
}

func (p *product) binlogReader() string {
	if p.isMariaDB() {
		return "mariadb-binlog"
	}
	return "mysqlbinlog"
}

// eachProduct runs f for every server, beside other tests.
func eachProduct(t *testing.T, f func(t *testing.T, p *product)) {
	t.Parallel()
	for _, p := range env.products {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f(t, p)
		})
	}
}
