package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// processStatus is what a daemon takes of its host at a moment.
type processStatus struct {
	Resident   int64 `json:"resident"`       // bytes of memory
	Heap       int64 `json:"heap"`           // bytes of it that Go's heap has in use
	Live       int64 `json:"live,omitempty"` // bytes in objects, right after garbage was collected; only collect tells
	Goroutines int   `json:"goroutines"`     //
	OpenFiles  int   `json:"open_files"`     // descriptors
}

func (p *processStatus) String() string {
	return fmt.Sprintf("%d MiB of memory, %d goroutines, %d open files", (p.Resident+1<<20-1)>>20, p.Goroutines, p.OpenFiles)
}

// ownFiles are files of /proc about this process, opened while it still may. It
// is safe for concurrent use.
type ownFiles struct {
	mu         sync.Mutex
	statm, fds *os.File // nil where /proc does not tell
}

func openOwn() *ownFiles {
	f := &ownFiles{}
	f.statm, _ = os.Open("/proc/self/statm")
	f.fds, _ = os.Open("/proc/self/fd")
	return f
}

// status is the processStatus of this process; what /proc does not tell is zero.
func (f *ownFiles) status(context.Context, json.RawMessage) (any, error) {
	p, _ := f.measure()
	return p, nil
}

// measure is status, and the bytes in objects, garbage among them.
func (f *ownFiles) measure() (p *processStatus, objects int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p = &processStatus{Heap: int64(m.HeapInuse), Goroutines: runtime.NumGoroutine()}
	b := make([]byte, 256)
	if n, _ := f.statm.ReadAt(b, 0); n > 0 {
		if f := strings.Fields(string(b[:n])); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			p.Resident = pages * int64(os.Getpagesize())
		}
	}
	if _, err := f.fds.Seek(0, 0); err == nil {
		names, _ := f.fds.Readdirnames(-1)
		p.OpenFiles = max(len(names)-2, 0) // but for these two
	}
	return p, int64(m.HeapAlloc)
}

// collect is status after what is garbage went back to the system. It is for
// tests, which look for what is not.
func (f *ownFiles) collect(context.Context, json.RawMessage) (any, error) {
	runtime.GC() // pools outlive one collection
	debug.FreeOSMemory()
	p, objects := f.measure()
	p.Live = objects
	return p, nil
}

// memoryAim is what a daemon's memory, in bytes, is kept below where the load
// lets it. What it needs has bounds: requests under way, tag blocks, the
// journal's index. Without an aim the garbage of a burst doubles that, and
// stays for minutes.
const memoryAim = 384 << 20

// limitMemory sets memoryAim, unless GOMEMLIMIT has set another.
func limitMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(memoryAim)
	}
}
