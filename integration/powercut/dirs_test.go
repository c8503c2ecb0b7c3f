package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// directories makes, saves over, renames, links and removes files and
// directories, some of them with long names, a few at a time, and then syncs
// the directories. The files are synced before.
type directories struct {
	steps []dirStep
}

// dirStep is one operation and what it makes of the names it touches.
type dirStep struct {
	step
	touched map[string]int // path below the top → content; gone if absent
	scratch string         // a name that it may leave behind if not acknowledged
}

const (
	gone  = -1
	isDir = 0 // contents of files count from 1
)

var dirTops = []string{"a", "b", "c"}

func newDirectories() *directories { return &directories{} }

func (w *directories) name() string { return "dirs" }

func (w *directories) setup(dir string) error {
	for _, d := range dirTops {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func dirContent(id int) []byte {
	b := make([]byte, 4+id*7919%30_000)
	fill(b, uint64(id)+1<<40)
	binary.LittleEndian.PutUint32(b, uint32(id))
	return b
}

func (w *directories) run(dir string, c *clock, stop <-chan struct{}) error {
	rng := rand.New(rand.NewPCG(env.seed, 99))
	state := map[string]int{}
	for _, d := range dirTops {
		state[d] = isDir
	}
	for id := 1; !stopped(stop); {
		from := len(w.steps)
		for range 1 + rng.IntN(5) {
			s := dirStep{step: step{c.now(), never}}
			if err := s.do(dir, id, state, rng); err != nil {
				return err
			}
			id++
			for path, v := range s.touched {
				if state[path] = v; v == gone {
					delete(state, path)
				}
			}
			w.steps = append(w.steps, s)
		}
		for _, d := range append([]string{"."}, dirTops...) {
			if err := syncPath(filepath.Join(dir, d)); err != nil {
				return err
			}
		}
		at := c.ack()
		for i := from; i < len(w.steps); i++ {
			w.steps[i].acked = at
		}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// do performs one operation.
func (s *dirStep) do(dir string, id int, state map[string]int, rng *rand.Rand) error {
	fresh := fmt.Sprint(dirTops[rng.IntN(len(dirTops))], "/", id, "-")
	if rng.IntN(3) == 0 {
		fresh += strings.Repeat("n", 257-len(fresh)-rng.IntN(60)) // up to 255 after the slash
	}
	var files, empty []string
	for path, v := range state {
		if v > 0 {
			files = append(files, path)
		} else if strings.Contains(path, "/") {
			empty = append(empty, path)
		}
	}
	// Maps have no order; a seed has to choose the same.
	slices.Sort(files)
	slices.Sort(empty)
	at := func(path string) string { return filepath.Join(dir, path) }
	k := rng.IntN(7)
	if len(files) < 5 {
		k = 0
	}
	switch k {
	case 0, 1: // a new file
		s.touched = map[string]int{fresh: id}
		s.scratch = fresh
		return writeSynced(at(fresh), dirContent(id))
	case 2: // a new version, saved over the old one
		old := files[rng.IntN(len(files))]
		s.scratch = filepath.Dir(old) + "/" + fmt.Sprint("tmp", id)
		s.touched = map[string]int{old: id}
		return errors.Join(writeSynced(at(s.scratch), dirContent(id)), os.Rename(at(s.scratch), at(old)))
	case 3:
		old := files[rng.IntN(len(files))]
		s.touched = map[string]int{old: gone, fresh: state[old]}
		return os.Rename(at(old), at(fresh))
	case 4:
		old := files[rng.IntN(len(files))]
		s.touched = map[string]int{old: gone}
		return os.Remove(at(old))
	case 5:
		old := files[rng.IntN(len(files))]
		s.touched = map[string]int{fresh: state[old]}
		return os.Link(at(old), at(fresh))
	}
	if len(empty) > 3 {
		old := empty[rng.IntN(len(empty))]
		if rng.IntN(2) == 0 {
			s.touched = map[string]int{old: gone, fresh: isDir}
			return os.Rename(at(old), at(fresh))
		}
		s.touched = map[string]int{old: gone}
		return os.Remove(at(old))
	}
	s.touched = map[string]int{fresh: isDir}
	return os.Mkdir(at(fresh), 0o755)
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func (w *directories) verify(dir string, at uint64, _ bool) (problems []string) {
	state := map[string]int{}
	for _, d := range dirTops {
		state[d] = isDir
	}
	pending := map[string]map[int]bool{}
	scratch := map[string]bool{}
	acked := 0
	for _, s := range w.steps {
		switch {
		case s.acked <= at:
			acked++
			for path, v := range s.touched {
				state[path] = v
			}
		case s.begun <= at:
			scratch[s.scratch] = true
			for path, v := range s.touched {
				if pending[path] == nil {
					pending[path] = map[int]bool{}
				}
				pending[path][v] = true
			}
		}
	}
	found := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			found[rel] = isDir
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found[rel] = -2
		if len(b) >= 4 {
			if id := int(binary.LittleEndian.Uint32(b)); id > 0 && id < 1<<24 && bytes.Equal(b, dirContent(id)) {
				found[rel] = id
			}
		}
		return nil
	})
	if err != nil {
		return []string{fmt.Sprintf("%d steps acknowledged: %v", acked, err)}
	}
	for path, v := range state {
		if _, ok := found[path]; !ok {
			found[path] = gone
		}
		if got := found[path]; got != v && !pending[path][got] {
			problems = append(problems, fmt.Sprintf("%.40s is %d, acknowledged was %d, may be %v (-1 gone, 0 directory, -2 other bytes)", path, got, v, pending[path]))
		}
	}
	for path, got := range found {
		if _, ok := state[path]; !ok && !pending[path][got] && !scratch[path] && pending[path] == nil {
			problems = append(problems, fmt.Sprintf("%.40s is there, %d, and was never acknowledged or begun", path, got))
		}
	}
	return problems
}
