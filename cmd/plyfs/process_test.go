package main

import (
	"bytes"
	"os"
	"runtime"
	"testing"
)

// A descriptor and a goroutine more are told of.
func TestOwnStatus(t *testing.T) {
	own := openOwn()
	figures := func() *processStatus {
		t.Helper()
		p, err := own.status(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.(*processStatus)
	}
	before := figures()
	if before.Resident < 1<<20 || before.Heap < 1 || before.Heap > before.Resident {
		t.Errorf("%d bytes resident, %d of heap", before.Resident, before.Heap)
	}
	var open []*os.File
	end := make(chan struct{})
	for range 100 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
		go func() { <-end }()
	}
	after := figures()
	close(end)
	for _, f := range open {
		f.Close()
	}
	// Other tests' own come and go, so many they are not.
	if files, routines := after.OpenFiles-before.OpenFiles, after.Goroutines-before.Goroutines; files < 90 || files > 110 || routines < 90 || routines > 110 {
		t.Errorf("%d files and %d goroutines more, wanted 100", files, routines)
	}
}

// What was garbage is not in the figures after a collection, and what is in use
// is.
func TestCollectedStatus(t *testing.T) {
	own := openOwn()
	collected := func() *processStatus {
		t.Helper()
		p, err := own.collect(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.(*processStatus)
	}
	const size = 64 << 20
	before := collected()
	kept := bytes.Repeat([]byte{1}, size)
	with := collected()
	runtime.KeepAlive(kept)
	kept = nil
	after := collected()
	if with.Resident < before.Resident+size/2 || with.Heap < before.Heap+size/2 || with.Live < before.Live+size/2 {
		t.Errorf("%v, then %v with %d MiB more in use", before, with, size>>20)
	}
	if after.Resident > with.Resident-size/2 || after.Heap > with.Heap-size/2 || after.Live > with.Live-size/2 {
		t.Errorf("%v, then %v with %d MiB less in use", with, after, size>>20)
	}
}
