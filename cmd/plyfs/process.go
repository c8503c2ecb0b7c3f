package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// processStatus is what a daemon takes of its host at a moment.
type processStatus struct {
	Resident   int64 `json:"resident"`   // bytes of memory
	Heap       int64 `json:"heap"`       // bytes of it that Go's heap has in use
	Goroutines int   `json:"goroutines"` //
	OpenFiles  int   `json:"open_files"` // descriptors
}

func (p *processStatus) String() string {
	return fmt.Sprintf("%d MiB of memory, %d goroutines, %d open files", (p.Resident+1<<20-1)>>20, p.Goroutines, p.OpenFiles)
}

// ownStatus is the processStatus of the process that asks; what /proc does not
// tell is zero.
func ownStatus(context.Context, json.RawMessage) (any, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p := &processStatus{Heap: int64(m.HeapInuse), Goroutines: runtime.NumGoroutine()}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			p.Resident = pages * int64(os.Getpagesize())
		}
	}
	if d, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := d.Readdirnames(-1)
		d.Close()
		p.OpenFiles = len(names) - 1 // but for the one that reads them
	}
	return p, nil
}

// askProcess asks the daemon of a mountpoint; nil if it does not answer.
func askProcess(dir, target string) *processStatus {
	var p *processStatus
	if askDaemon(dir, target, "process", nil, &p, statusTime) != nil {
		return nil
	}
	return p
}
