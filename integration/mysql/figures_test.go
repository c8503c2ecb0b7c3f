package mysql

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// figures are what a daemon takes of its host.
type figures struct {
	Resident   int64 `json:"resident"`
	Heap       int64 `json:"heap"`
	Live       int64 `json:"live"`
	Goroutines int   `json:"goroutines"`
	OpenFiles  int   `json:"open_files"`

	shown int64 // resident as it was before garbage was collected, as status shows it
}

func (f figures) String() string {
	return fmt.Sprintf("%d MiB resident, %.1f MiB in use, %.1f MiB of it heap with %.2f MiB of objects, %d goroutines, %d files",
		f.shown>>20, mib(f.Resident), mib(f.Heap), mib(f.Live), f.Goroutines, f.OpenFiles)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// figuresOf are a volume's daemon's, of which no server has files open, once
// all records are home and what was garbage is collected: what is left then
// should always be the same, but for the segments of the journal, which grows to
// its size, and whose descriptors are left out. Other descriptors and goroutines of requests that are
// just over take a moment to go, so the least of a few answers counts.
func figuresOf(t *testing.T, v *volume) figures {
	t.Helper()
	var shown figures
	check(t, v.ask("process", &shown))
	check(t, v.ask("settle", nil))
	var journal struct{ Segments int }
	check(t, v.ask("journal", &journal))
	var least figures
	for n := range 20 {
		var f figures
		check(t, v.ask("collect", &f))
		if n == 0 {
			least = f
		}
		least = figures{min(least.Resident, f.Resident), min(least.Heap, f.Heap), min(least.Live, f.Live), min(least.Goroutines, f.Goroutines), min(least.OpenFiles, f.OpenFiles), shown.Resident}
		time.Sleep(50 * time.Millisecond)
	}
	least.OpenFiles -= journal.Segments
	return least
}

// ask has the volume's daemon do something, by its socket, and unpacks its answer
// into result, if that is not nil.
func (v *volume) ask(op string, result any) error {
	mnt, err := filepath.EvalSymlinks(v.mnt)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(mnt))
	c, err := net.Dial("unix", filepath.Join("/run/plyfs", hex.EncodeToString(sum[:8])+".sock"))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if err := json.NewEncoder(c).Encode(map[string]string{"op": op}); err != nil {
		return err
	}
	var reply struct {
		Result json.RawMessage
		Error  string
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return fmt.Errorf("asking for %s: %w", op, err)
	}
	if reply.Error != "" {
		return fmt.Errorf("asking for %s: %w", op, errors.New(reply.Error))
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(reply.Result, result)
}

const (
	// judged is from how many measurements in one life on growth shows.
	judged = 10
	// What the figures may grow by. They are of a daemon at rest, so that a leak
	// of a tenth of a MiB or of one descriptor for every two rounds stands out.
	mayGrowLive  = 2 << 20  // bytes of objects, of which subkeys of closed files may be 1.3 MiB
	mayGrow      = 12 << 20 // bytes in use: objects that stay pin the spans of those that went
	mayGrowFiles = 4
	mayGrowTasks = 5
	// What a daemon that serves one server may have resident at most, by its
	// soft limit of memory and something above it.
	mayTake = 512 << 20
)

// growth is how much one figure grew in a life: from the least of the first
// third of the measurements to the least of the last. The first one is left out,
// since caches and pools fill up until then.
func growth(all []figures, of func(figures) int64) int64 {
	warm := all[1:]
	third := len(warm) / 3
	least := func(some []figures) int64 {
		n := of(some[0])
		for _, f := range some {
			n = min(n, of(f))
		}
		return n
	}
	return least(warm[len(warm)-third:]) - least(warm[:third])
}

// report prints how a daemon's figures went in one life, and wants them bounded.
func report(t *testing.T, who string, all []figures) {
	t.Helper()
	if len(all) == 0 {
		return
	}
	for _, err := range judge(t.Logf, who, all) {
		t.Error(err)
	}
}

// judge says what is wrong with the figures of one life.
func judge(logf func(string, ...any), who string, all []figures) (wrong []error) {
	most := int64(0)
	for i, f := range all {
		logf("%s, measurement %d of %d: %v", who, i+1, len(all), f)
		most = max(most, f.shown)
	}
	if most > mayTake {
		wrong = append(wrong, fmt.Errorf("%s took %d MiB", who, most>>20))
	}
	if len(all) < judged {
		return wrong
	}
	for _, g := range []struct {
		what string
		most int64
		of   func(figures) int64
	}{
		{"bytes in use", mayGrow, func(f figures) int64 { return f.Resident }},
		{"bytes of objects", mayGrowLive, func(f figures) int64 { return f.Live }},
		{"open files", mayGrowFiles, func(f figures) int64 { return int64(f.OpenFiles) }},
		{"goroutines", mayGrowTasks, func(f figures) int64 { return int64(f.Goroutines) }},
	} {
		if n := growth(all, g.of); n > g.most {
			wrong = append(wrong, fmt.Errorf("%s grows: %d %s more in one life of %d measurements; it may be %d", who, n, g.what, len(all), g.most))
		}
	}
	return wrong
}

// TestGrowthIsNoticed has figures that go up and down, of a daemon that leaks
// and of one that does not.
func TestGrowthIsNoticed(t *testing.T) {
	quiet := func(string, ...any) {}
	for name, c := range map[string]struct {
		memory      int64 // what each measurement adds
		files, runs int
		grows       bool
	}{
		"steady":                 {0, 0, judged, false},
		"steady for long":        {0, 0, 50, false},
		"a MiB each time":        {1 << 20, 0, judged, true},
		"a descriptor each time": {0, 1, judged, true},
		"a little each time":     {256 << 10, 0, 30, true},
		"too few to say":         {1 << 20, 1, judged - 1, false},
	} {
		var all []figures
		for i := range c.runs {
			wobble := int64(i*7%5) << 18 // up to a MiB
			f := figures{Resident: 20<<20 + wobble + int64(i)*c.memory, Heap: 9<<20 + wobble/2 + int64(i)*c.memory, Live: 6<<20 + wobble/2 + int64(i)*c.memory, Goroutines: 17 + i%3, OpenFiles: 53 + i%2 + i*c.files}
			if i == 0 { // cold
				f.Resident, f.Heap = 12<<20, 3<<20
			}
			all = append(all, f)
		}
		if wrong := judge(quiet, "it", all); (len(wrong) > 0) != c.grows {
			t.Errorf("%s: %v", name, wrong)
		}
	}
}
