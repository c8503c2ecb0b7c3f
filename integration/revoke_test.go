package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exitInaccessible is plyfs's code for a volume whose keys were withdrawn.
const exitInaccessible = 17

// A server whose key is revoked under load gets errors. What it was told to be
// committed is there once the key is, and nothing it reads is wrong.
func TestMariaDBWhenTheKeyIsRevoked(t *testing.T) {
	v := newVolume(t)
	v.opts = append(v.opts, "-o", "revalidate=1h,grace=0")
	v.mustMount(t)
	t.Cleanup(func() { v.close(t) })
	db := installMariaDB(t, v.mnt)
	check(t, db.start())
	t.Cleanup(func() { db.kill() })
	sql := func(text string) string {
		t.Helper()
		return db.sql(t, text)
	}
	sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, text VARCHAR(2000)) ENGINE=InnoDB")
	committed := make(chan int, 1)
	begun := make(chan struct{})
	go func() {
		n := 0
		for ; ; n++ {
			if _, err := db.try(fmt.Sprintf("INSERT INTO d.t VALUES (%d, REPEAT('%d ', 300))", n, n)); err != nil {
				break
			}
			if n == 20 {
				close(begun)
			}
		}
		committed <- n
	}()
	select {
	case <-begun:
	case <-time.After(2 * time.Minute):
		t.Fatal("the server takes no rows")
	}

	key := filepath.Join(v.keys, "data.key")
	check(t, os.Rename(key, key+".away"))
	if r := plyfs("revalidate", v.mnt); r.code != exitInaccessible || !strings.Contains(r.stdout, "Inaccessible") {
		t.Fatalf("revalidate: code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	var n int
	select {
	case n = <-committed:
	case <-time.After(2 * time.Minute):
		t.Fatal("inserts go on without the key")
	}
	db.kill() // if it has not ended by itself
	if err := os.WriteFile(filepath.Join(v.mnt, "x"), nil, 0o600); err == nil {
		t.Error("a file was made without the key")
	}

	check(t, os.Rename(key+".away", key))
	mustPlyfs(t, "revalidate", v.mnt)
	check(t, db.start())
	db.purge(t)
	if got := sql("CHECK TABLE d.t EXTENDED"); !strings.HasSuffix(got, "OK") {
		t.Errorf("check: %s", got)
	}
	if got := sql(fmt.Sprintf("SELECT COUNT(*) FROM d.t WHERE id < %d AND text = REPEAT(CONCAT(id, ' '), 300)", n)); got != fmt.Sprint(n) {
		t.Errorf("%s rows are as they were committed, %d were committed", got, n)
	}
	if got := sql("SELECT COUNT(*) FROM d.t"); got != fmt.Sprint(n) && got != fmt.Sprint(n+1) {
		t.Errorf("%s rows, and %d were committed", got, n)
	}
	sql("INSERT INTO d.t VALUES (1000000, 'after')")
	db.kill()
	check(t, db.start()) // recovery once more, on a volume that never was unmounted
	if got := sql("SELECT text FROM d.t WHERE id = 1000000"); got != "after" {
		t.Errorf("row written after all: %q", got)
	}
	db.stop(t)
}
