package gluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// model does the same to a directory and to what a map says it holds.
type model struct {
	t     *testing.T
	dir   string
	r     *rand.Rand
	files map[string][]byte // nil: a directory
}

func newModel(t *testing.T, dir string, seed uint64) *model {
	t.Logf("seed %d", seed)
	return &model{t: t, dir: dir, r: rand.New(rand.NewPCG(seed, 1)), files: map[string][]byte{}}
}

func (m *model) must(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

func (m *model) path(name string) string { return filepath.Join(m.dir, name) }

// pick returns a name that is of a file, or a directory, or "".
func (m *model) pick(dir bool) string {
	var names []string
	for name, content := range m.files {
		if (content == nil) == dir {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return names[m.r.IntN(len(names))]
}

// fresh returns a name that is free, in a directory that there is.
func (m *model) fresh() string {
	for {
		name := fmt.Sprintf("%s-%d", strings.Repeat("n", 1+m.r.IntN(200)), m.r.IntN(1000))
		if dir := m.pick(true); dir != "" && m.r.IntN(2) == 0 {
			name = dir + "/" + name
		}
		if _, taken := m.files[name]; !taken {
			return name
		}
	}
}

func (m *model) data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.r.Uint32())
	}
	return b
}

// step does one thing.
func (m *model) step() {
	name := m.pick(false)
	kind := m.r.IntN(10)
	if name == "" || kind == 0 {
		name := m.fresh()
		content := m.data(1 + m.r.IntN(40000))
		m.must("write", os.WriteFile(m.path(name), content, 0o600))
		m.files[name] = content
		return
	}
	content := m.files[name]
	switch kind {
	case 1, 2, 3:
		m.write(name, content)
	case 4:
		size := m.r.IntN(60000)
		m.must("truncate", os.Truncate(m.path(name), int64(size)))
		m.files[name] = append(slices.Clone(content[:min(size, len(content))]), make([]byte, max(size-len(content), 0))...)
	case 5:
		to := m.fresh()
		m.must("rename", os.Rename(m.path(name), m.path(to)))
		delete(m.files, name)
		m.files[to] = content
	case 6:
		over := m.pick(false)
		m.must("rename over", os.Rename(m.path(name), m.path(over)))
		if over != name {
			delete(m.files, name)
		}
		m.files[over] = content
	case 7:
		m.must("remove", os.Remove(m.path(name)))
		delete(m.files, name)
	case 8:
		if strings.Count(name, "/") < 3 {
			name := m.fresh()
			m.must("mkdir", os.Mkdir(m.path(name), 0o755))
			m.files[name] = nil
		}
	case 9:
		m.punch(name, content)
	}
}

func (m *model) write(name string, content []byte) {
	f, err := os.OpenFile(m.path(name), os.O_RDWR, 0)
	m.must("open", err)
	defer f.Close()
	off, b := m.r.IntN(50000), m.data(1+m.r.IntN(30000))
	_, err = f.WriteAt(b, int64(off))
	m.must("write", err)
	if m.r.IntN(3) == 0 {
		m.must("fsync", f.Sync())
	}
	content = slices.Clone(content)
	if end := off + len(b); end > len(content) {
		content = append(content, make([]byte, end-len(content))...)
	}
	copy(content[off:], b)
	m.files[name] = content
}

func (m *model) punch(name string, content []byte) {
	if len(content) == 0 {
		return
	}
	f, err := os.OpenFile(m.path(name), os.O_RDWR, 0)
	m.must("open", err)
	defer f.Close()
	off := m.r.IntN(len(content))
	n := 1 + m.r.IntN(20000)
	m.must("punch", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
	content = slices.Clone(content)
	clear(content[off:min(off+n, len(content))])
	m.files[name] = content
}

// compare fails at the first difference.
func (m *model) compare() {
	m.t.Helper()
	found := map[string]bool{}
	m.must("walk", filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == m.dir {
			return err
		}
		name, err := filepath.Rel(m.dir, path)
		if err != nil {
			return err
		}
		want, ok := m.files[name]
		if !ok {
			return fmt.Errorf("%s should not be there", name)
		}
		found[name] = true
		if d.IsDir() != (want == nil) {
			return fmt.Errorf("%s is of another kind", name)
		}
		if d.IsDir() {
			return nil
		}
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("it holds something else")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}))
	for name := range m.files {
		if !found[name] {
			m.t.Fatalf("%s is missing", name)
		}
	}
}
