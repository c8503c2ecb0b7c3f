package keystore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

func TestPins(t *testing.T) {
	dir := t.TempDir()
	p := Pins{Path: filepath.Join(dir, "hosts.json")}
	a, b := cipher.VolumeID{2}, cipher.VolumeID{1}
	for _, tt := range []struct {
		what string
		do   func() error
		want error
	}{
		{"no file, no memory", func() error { return p.Check(a, Pin{Data: 1}) }, nil},
		{"first", func() error { return p.Raise(a, Pin{Data: 3, Infra: 2, Journal: 9}) }, nil},
		{"another volume", func() error { return p.Raise(b, Pin{Data: 1}) }, nil},
		{"the same", func() error { return p.Check(a, Pin{Data: 3, Infra: 2, Journal: 9}) }, nil},
		{"newer", func() error { return p.Check(a, Pin{Data: 4, Infra: 3, Journal: 10}) }, nil},
		{"not compared", func() error { return p.Check(a, Pin{}) }, nil},
		{"older data keys", func() error { return p.Check(a, Pin{Data: 2, Infra: 9, Journal: 99}) }, ErrRolledBack},
		{"older infra keys", func() error { return p.Check(a, Pin{Data: 9, Infra: 1, Journal: 99}) }, ErrRolledBack},
		{"older journal", func() error { return p.Check(a, Pin{Data: 9, Infra: 9, Journal: 8}) }, ErrRolledBack},
		{"older, of the other volume", func() error { return p.Check(b, Pin{Data: 1, Infra: 1, Journal: 1}) }, nil},
		{"lower values", func() error { return p.Raise(a, Pin{Data: 1, Infra: 1, Journal: 1}) }, nil},
		{"still refused", func() error { return p.Check(a, Pin{Data: 2}) }, ErrRolledBack},
		{"accepted", func() error { return p.Accept(a, Pin{Data: 2, Infra: 2}) }, nil},
		{"no longer refused", func() error { return p.Check(a, Pin{Data: 2}) }, nil},
		{"what was not accepted", func() error { return p.Check(a, Pin{Journal: 8}) }, ErrRolledBack},
		{"no directory to read", func() error { return Pins{Path: filepath.Join(dir, "no/x")}.Check(a, Pin{Data: 1}) }, nil},
	} {
		check(t, tt.what, tt.do(), tt.want)
	}
	if err := (Pins{Path: filepath.Join(dir, "no/x")}).Raise(a, Pin{Data: 1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory to write: %v", err)
	}
	good := readFile(t, p.Path)
	for what, bad := range map[string]string{
		"cut":           string(good[:len(good)-3]),
		"empty":         "",
		"other file":    `{"plyfs":"volume","version":1}`,
		"space":         strings.Replace(string(good), ": 1", ":  1", 1),
		"unknown field": strings.Replace(string(good), `"version": 1,`, "\"version\": 1,\n  \"x\": 1,", 1),
		"out of order":  strings.Replace(string(good), b.String(), cipher.VolumeID{3}.String(), 1),
	} {
		writeFile(t, p.Path, []byte(bad))
		check(t, what, p.Check(a, Pin{Data: 9}), ErrTampered)
		check(t, what+", raised", p.Raise(a, Pin{Data: 9}), ErrTampered)
	}
	writeFile(t, p.Path, bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 2`), 1))
	check(t, "later version", p.Check(a, Pin{Data: 9}), ErrVersion)
}

func TestConcurrentPins(t *testing.T) {
	p := Pins{Path: filepath.Join(t.TempDir(), "hosts.json")}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := p.Raise(cipher.VolumeID{byte(i)}, Pin{Data: uint64(i + 1)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		check(t, "one lower", p.Check(cipher.VolumeID{byte(i)}, Pin{Data: uint64(i + 1)}), nil)
		if i > 0 {
			check(t, "one lower", p.Check(cipher.VolumeID{byte(i)}, Pin{Data: uint64(i)}), ErrRolledBack)
		}
	}
}
