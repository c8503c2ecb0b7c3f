package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// contentFiles are the backing files of regular files in a ciphertext
// directory.
func contentFiles(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), "plyfs.") {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}

// sparse makes a volume with one file: two full blocks, a hole, a short block
// far behind; and returns the backing file.
func sparse(t *testing.T, b *bench, initArgs, mountArgs []string) string {
	t.Helper()
	needMounts(t)
	b.volume(initArgs...)
	b.mount(mountArgs...)
	f, err := os.Create(filepath.Join(b.mnt, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		off  int64
		text string
	}{{0, strings.Repeat("plain text ", 1000)[:8192]}, {400 * 4096, "the end"}} {
		if _, err := f.WriteAt([]byte(w.text), w.off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	b.run(exitOK, "umount", b.mnt)
	files := contentFiles(t, b.cipher)
	if len(files) != 1 {
		t.Fatalf("content files: %v", files)
	}
	return files[0]
}

func TestInspect(t *testing.T) {
	b := newBench(t)
	path := sparse(t, b, nil, nil)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var i inspection
	if err := json.Unmarshal([]byte(b.run(exitOK, "inspect", "--json", "--blocks", "all", path).stdout), &i); err != nil {
		t.Fatal(err)
	}
	if i.Length != int64(len(raw)) || i.Verified || len(i.Problems) != 0 {
		t.Errorf("length %d, verified %v, problems %q", i.Length, i.Verified, i.Problems)
	}
	if s := i.Static; s.Suite != 1 || s.Layers != 2 || s.BlockSize != 4096 || s.Epoch != 1 {
		t.Errorf("static header: %+v", s)
	}
	// Block 400 lies in group 7: (400+16)/56.
	if h := i.Header; h.Size != 400*4096+7 || h.Blocks != 401 || h.Last != 7 {
		t.Errorf("header: %+v", h)
	}
	if want := (inspectSummary{Groups: 2, Present: 3, Holes: 398}); i.Summary != want {
		t.Errorf("summary %+v, want %+v", i.Summary, want)
	}
	if len(i.Groups) != 2 || i.Groups[0].Group != 0 || i.Groups[1].Group != 7 || i.Groups[1].Gap != 6 {
		t.Fatalf("groups: %+v", i.Groups)
	}
	first, last := i.Groups[0].Blocks, i.Groups[1].Blocks
	if len(first) != 40 || first[0].Hole || first[1].Hole || !first[2].Hole || first[1].Length != 4096 {
		t.Errorf("group 0: %+v", first)
	}
	end := last[len(last)-1]
	if end.Block != 400 || end.Length != 7 || end.Hole {
		t.Errorf("the last block: %+v", end)
	}

	// What is shown is what lies there: FORMAT.md §4 to §7.
	at := func(off int64, n int) string { return hex.EncodeToString(raw[off:][:n]) }
	l, _ := cipher.NewLayout(4096)
	for _, blk := range []inspectBlock{first[0], first[1], end} {
		e := l.EntryOffset(blk.Block)
		for _, f := range []struct{ name, got, want string }{
			{"salt", blk.Salt, at(e, 12)}, {"n2", blk.N2, at(e+12, 12)}, {"n1", blk.N1, at(e+28, 12)},
			{"t1", blk.T1, at(e+40, 16)}, {"t2", blk.T2, at(e+56, 16)}, {"body", blk.Body, at(blk.Offset, len(blk.Body)/2)},
		} {
			if f.got != f.want {
				t.Errorf("%s of block %d is %s, on disk %s", f.name, blk.Block, f.got, f.want)
			}
		}
	}
	for _, f := range []struct{ name, got, want string }{
		{"volume", i.Static.VolumeID, at(16, 16)}, {"file", i.Static.FileID, at(32, 16)}, {"salt", i.Static.Salt, at(48, 32)},
		{"MAC 1 of sector 0", i.Static.MAC[0], at(480, 16)}, {"MAC 2 of sector 1", i.Header.MAC[1], at(1008, 16)},
		{"MAC 1 of group 7", i.Groups[1].MAC[0], at(l.TagOffset(7)+4064, 16)},
	} {
		if f.got != f.want {
			t.Errorf("%s is %s, on disk %s", f.name, f.got, f.want)
		}
	}

	text := b.run(exitOK, "inspect", path, "--blocks", "0-3").stdout
	wantText(t, "inspect", text, "suite             1 (double)", "1638407 bytes, 401 blocks", "block 0: 4096 bytes at 4096",
		first[0].T2, "(sealed by layer 2)", "blocks 2 to 3: holes", "3 blocks sealed, 398 holes, 2 tag blocks", "4 of 401 blocks shown")
	if strings.Contains(text, "group 7") {
		t.Errorf("a group outside of the range is shown:\n%s", text)
	}
}

func TestInspectOneLayer(t *testing.T) {
	b := newBench(t)
	path := sparse(t, b, []string{"--single-layer"}, []string{"-o", "layers=1"})
	text := b.run(exitOK, "inspect", path).stdout
	wantText(t, "inspect", text, "0 (single), one layer")
	if strings.Contains(text, "layer 2") || strings.Contains(text, "BLAKE2b") {
		t.Errorf("a layer 2 is shown:\n%s", text)
	}
}

func TestInspectDamage(t *testing.T) {
	b := newBench(t)
	path := sparse(t, b, nil, nil)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func([]byte) []byte) string {
		return b.file("damaged", string(f(append([]byte(nil), good...))))
	}
	tests := []struct {
		name string
		file string
		code exitCode
		text string
	}{
		{"not ours", b.file("other", "hello, this is text"), exitNotVolume, "not a plyfs structure"},
		{"long and not ours", change(func(x []byte) []byte { x[0] = 'Q'; return x }), exitNotVolume, "not a plyfs structure"},
		{"a directory", b.dir, exitNotVolume, ""},
		{"nothing", filepath.Join(b.dir, "nowhere"), exitFailure, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantText(t, "standard error", b.run(tt.code, "inspect", tt.file).stderr, tt.text)
		})
	}
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		code   exitCode
		text   string
	}{
		{"empty", func(x []byte) []byte { return nil }, exitTampered, "the header is missing"},
		{"cut in the header", func(x []byte) []byte { return x[:700] }, exitTampered, "the header is missing"},
		{"zeroed header", func(x []byte) []byte { clear(x[:1024]); return x }, exitTampered, "the header is missing"},
		{"a later format", func(x []byte) []byte { x[5] = 9; return x }, exitVersion, "unsupported format version"},
		{"an unknown suite", func(x []byte) []byte { x[6] = 7; return x }, exitVersion, "unsupported suite"},
		{"cut content", func(x []byte) []byte { return x[:5000] }, exitOK, "fewer than a file of this size takes"},
		{"a zeroed tag block", func(x []byte) []byte { l, _ := cipher.NewLayout(4096); clear(x[l.TagOffset(7):][:4096]); return x }, exitOK, "group 7: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantText(t, "standard error", b.run(tt.code, "inspect", change(tt.change)).stderr, tt.text)
		})
	}
	fifo := filepath.Join(b.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(exitNotVolume, "inspect", fifo) // and it does not hang
}

// FuzzInspect: whatever a file holds, inspect ends, and without a panic.
func FuzzInspect(f *testing.F) {
	header := make([]byte, 8192)
	copy(header, "PLYF\x00\x01\x01\x02\x0c")
	copy(header[512:], "PLYH\x01")
	header[512+14] = 0x20 // size 8192
	copy(header[4032:], "PLYT")
	f.Add(header, "0-7")
	f.Add([]byte{}, "all")
	f.Fuzz(func(t *testing.T, content []byte, blocks string) {
		want, err := parseRange(blocks)
		if err != nil || want.last-want.first > 1<<16 {
			want = blockRange{0, 100}
		}
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := inspect(path, want)
		if err == nil {
			i.print(&console{stdout: &strings.Builder{}, stderr: &strings.Builder{}})
		}
	})
}
