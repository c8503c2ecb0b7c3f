package mysql

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// encrypt has the server encrypt, from its installation on, with keys that lie
// outside the mount.
func (s *server) encrypt(t testing.TB) {
	t.Helper()
	keys := filepath.Join(s.run, "keys")
	s.owned(t, keys)
	if s.isMariaDB() {
		file := filepath.Join(keys, "keyfile")
		check(t, os.WriteFile(file, []byte("1;"+strings.Repeat("a7", 32)+"\n2;"+strings.Repeat("5c", 32)+"\n"), 0o644))
		s.opts = append(s.opts, "--plugin-load-add=file_key_management", "--file-key-management-filename="+file,
			"--innodb-encrypt-tables=FORCE", "--innodb-encrypt-log=1", "--innodb-encryption-threads=2", "--innodb-encrypt-temporary-tables=1",
			"--encrypt-binlog=1", "--encrypt-tmp-files=1", "--encrypt-tmp-disk-tables=1", "--aria-encrypt-tables=1")
		return
	}
	// Which components to load, the server reads from beside its program, and
	// a component its configuration from beside itself: so both are copies.
	const component = "component_keyring_file"
	command(t, exec.Command("cp", filepath.Join(s.root, "usr/sbin/mysqld"), filepath.Join(s.root, "usr/lib/mysql/plugin", component+".so"), keys))
	check(t, os.WriteFile(filepath.Join(keys, "mysqld.my"), []byte(`{"components": "file://component_keyring_file"}`), 0o644))
	check(t, os.WriteFile(filepath.Join(keys, component+".cnf"), fmt.Appendf(nil, `{"path": "%s/keyring", "read_only": false}`, keys), 0o644))
	s.program = filepath.Join(keys, "mysqld")
	s.opts = append(s.opts, "--basedir=/usr", "--plugin-dir="+keys, "--innodb-undo-log-encrypt=1", "--innodb-redo-log-encrypt=1",
		"--binlog-encryption=1", "--default-table-encryption=1")
}

// TestEncrypted puts the server's own encryption on top: tables, redo, undo and
// binary logs are ciphertext before plyfs sees them.
func TestEncrypted(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		env.results.record(t, p, nil, "encrypted tables, redo, undo, binary logs on top; kill -9 of both, remount")
		v := newVolume(t, group{})
		s := newServer(t, p, v.mnt+"/mysql", "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0")
		s.encrypt(t)
		s.install(t)
		s.mustStart(t)
		if !p.isMariaDB() {
			s.sql(t, "ALTER TABLESPACE mysql ENCRYPTION='Y'")
		}
		prepareLedger(t, s)
		survive(t, v, s)
		if p.isMariaDB() {
			if n := s.sql(t, "SELECT COUNT(*) FROM information_schema.innodb_tablespaces_encryption WHERE name LIKE 'ledger/%' AND encryption_scheme=1"); n != "3" {
				t.Errorf("%s tables of 3 are encrypted", n)
			}
		} else if n := s.sql(t, "SELECT COUNT(*) FROM information_schema.innodb_tablespaces WHERE name LIKE 'ledger/%' AND encryption='Y'"); n != "3" {
			t.Errorf("%s tables of 3 are encrypted", n)
		}
		s.sql(t, "CREATE TABLE ledger.needle (v VARCHAR(100)) ENGINE=InnoDB; INSERT INTO ledger.needle VALUES ('a needle in a haystack'); FLUSH TABLES ledger.needle FOR EXPORT; UNLOCK TABLES")
		b, err := os.ReadFile(s.datadir() + "/ledger/needle.ibd")
		check(t, err)
		if strings.Contains(string(b), "a needle in a haystack") {
			t.Error("the table's file has its text in the clear, on the mount")
		}
		wantAfterRemount(t, v, s)
		s.stop(t)
	})
}
