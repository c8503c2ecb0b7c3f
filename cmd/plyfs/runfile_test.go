package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestRunFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	start, err := startOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r := &runFile{PID: os.Getpid(), Start: start, Source: "/c", Target: "/m", Since: time.Unix(1, 0).UTC(), Layers: 2,
		Stores: []storeNote{{Layer: "data", Path: "/k/data.store", Protection: "passphrase"}}}
	if err := writeRunFile(dir, r); err != nil {
		t.Fatal(err)
	}
	if got := readRunFile(dir, "/m"); !reflect.DeepEqual(got, r) {
		t.Errorf("got  %+v\nwant %+v", got, r)
	}
	if st, _ := os.Stat(runPath(dir, "/m")); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if readRunFile(dir, "/other") != nil {
		t.Error("another mountpoint has a run file")
	}
	if !r.alive() {
		t.Error("this process is not alive")
	}
	r.Start = "1" // the same number, an earlier process
	if r.alive() {
		t.Error("a process with this number that started at another time counts as alive")
	}
	if err := os.WriteFile(runPath(dir, "/m"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if readRunFile(dir, "/m") != nil {
		t.Error("a torn run file is read")
	}
	if err := writeRunFile("", r); err != nil || readRunFile("", "/m") != nil {
		t.Error("no directory must mean no run files")
	}
}

// The run file of another mount, made at the same place since, is not removed.
func TestRunFileIsTakenByItsOwn(t *testing.T) {
	dir := t.TempDir()
	mine, other := &runFile{PID: 1, Start: "1", Target: "/m"}, &runFile{PID: 2, Start: "2", Target: "/m"}
	for _, there := range []*runFile{other, mine} {
		if err := writeRunFile(dir, there); err != nil {
			t.Fatal(err)
		}
		took := takeRunFile(dir, mine) != nil
		if left := readRunFile(dir, "/m") != nil; took == left || took != (there == mine) {
			t.Errorf("process %d: taken %t, left %t", there.PID, took, left)
		}
	}
}
