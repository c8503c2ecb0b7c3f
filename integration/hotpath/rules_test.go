package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNobodyElseDoesWithoutAJournal reads the source tree: a volume without a
// journal is for this program alone.
func TestNobodyElseDoesWithoutAJournal(t *testing.T) {
	root, here := "../..", 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || filepath.Base(path) == "rules_test.go" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(".OpenWithoutJournal(")) {
			return err
		}
		if strings.HasPrefix(path, filepath.Join(root, "integration", "hotpath")) {
			here++
			return nil
		}
		t.Errorf("%s opens a volume without a journal", path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if here == 0 {
		t.Error("not even this program does")
	}
}
