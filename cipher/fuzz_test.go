package cipher_test

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// Each target feeds a parser twice: with sound layers, where nothing may come out
// but what was sealed, and with a layer that accepts every tag, so that what lies behind
// the tags is parsed too. Neither may panic.

// fuzzWorlds returns a sound world and ones with a broken layer. All are the same
// volume and file, in each of the fuzzer's processes.
func fuzzWorlds(f *testing.F) (sound *world, broken []*world) {
	f.Helper()
	for _, s := range settings() {
		w := newWorld(f, s.volume(f, 1, nil, bytes.NewReader(pattern(1<<14))))
		switch {
		case s.broken != 0:
			broken = append(broken, w)
		case s.suite == cipher.SuiteDouble:
			sound = w
		}
	}
	return sound, broken
}

// fuzzThing fuzzes the thing of a name.
func fuzzThing(f *testing.F, name string, usable func([]byte) bool) {
	find := func(w *world) thing {
		for _, th := range w.things(f, 333) {
			if th.name == name {
				return th
			}
		}
		f.Fatalf("no thing %q", name)
		panic("not reached")
	}
	soundWorld, brokenWorlds := fuzzWorlds(f)
	sound := find(soundWorld)
	var broken []thing
	for _, w := range brokenWorlds {
		broken = append(broken, find(w))
	}
	f.Add(sound.sealed)
	f.Add(make([]byte, len(sound.sealed)))
	f.Add([]byte{})
	for _, th := range broken {
		f.Add(th.sealed)
	}
	want, err := sound.open(sound.sealed)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !usable(b) {
			return
		}
		got, err := sound.open(b)
		if err == nil && got != want {
			t.Errorf("%x opens to %q, want %q", b, got, want)
		}
		if err != nil && !known(err) {
			t.Errorf("error %v", err)
		}
		for _, th := range broken {
			if _, err := th.open(b); err != nil && !known(err) {
				t.Errorf("error %v with a broken layer", err)
			}
		}
	})
}

func anyLength([]byte) bool { return true }

func FuzzOpenStatic(f *testing.F)     { fuzzThing(f, "static header", anyLength) }
func FuzzOpenStaticCopy(f *testing.F) { fuzzThing(f, "copy of the static header", anyLength) }
func FuzzOpenHeader(f *testing.F)     { fuzzThing(f, "header", anyLength) }
func FuzzOpenTrailer(f *testing.F)    { fuzzThing(f, "trailer", anyLength) }
func FuzzOpenDirID(f *testing.F)      { fuzzThing(f, "directory ID", anyLength) }
func FuzzOpenBlob(f *testing.F)       { fuzzThing(f, "blob", anyLength) }
func FuzzOpenXattr(f *testing.F)      { fuzzThing(f, "xattr", anyLength) }
func FuzzVerify(f *testing.F)         { fuzzThing(f, "structure", anyLength) }

func FuzzOpenBlock(f *testing.F) {
	fuzzThing(f, "block", func(b []byte) bool {
		return len(b) > cipher.EntrySize && len(b) <= 4096+cipher.EntrySize
	})
}

func FuzzOpenName(f *testing.F) {
	sound, broken := fuzzWorlds(f)
	sealed := sound.v.SealName(thingDir, "ibdata1")
	for _, s := range []string{sealed, sealed + "\n", sealed + "=", "", "plyfs.dirid", cipher.LongName(sealed), base64.RawURLEncoding.EncodeToString(make([]byte, 33))} {
		f.Add(s)
	}
	for _, w := range broken {
		f.Add(w.v.SealName(thingDir, "ibdata1"))
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := sound.v.OpenName(thingDir, s); err == nil && s != sealed {
			t.Errorf("%q opens to %q", s, name)
		}
		for _, w := range broken {
			if name, err := w.v.OpenName(thingDir, s); err == nil && (name == "" || name == "." || name == ".." || len(name) > 255 || bytes.ContainsAny([]byte(name), "/\x00")) {
				t.Errorf("%q opens to the name %q", s, name)
			}
		}
	})
}

// Names of all kinds come back, and as nothing else.
func FuzzSealName(f *testing.F) {
	sound, _ := fuzzWorlds(f)
	for _, s := range []string{"a", "..", "a/b", "ibdata1", "\xff\xfe", "..."} {
		f.Add(s, byte(1))
	}
	f.Fuzz(func(t *testing.T, name string, dir byte) {
		if len(name) > 300 {
			return
		}
		sealed := sound.v.SealName(cipher.DirID{dir}, name)
		got, err := sound.v.OpenName(cipher.DirID{dir}, sealed)
		valid := name != "" && name != "." && name != ".." && len(name) <= 255 && !bytes.ContainsAny([]byte(name), "/\x00")
		if valid != (err == nil) || valid && got != name {
			t.Errorf("%q comes back as %q, %v", name, got, err)
		}
		if _, err := sound.v.OpenName(cipher.DirID{dir + 1}, sealed); err == nil {
			t.Errorf("%q opens in another directory", name)
		}
	})
}

// What needs no keys must bear anything.
func FuzzInspect(f *testing.F) {
	sound, _ := fuzzWorlds(f)
	for _, th := range sound.things(f, 333) {
		f.Add(th.sealed)
	}
	f.Add(make([]byte, cipher.TagBlockSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := cipher.InspectStatic(b); err == nil && (i.Format != cipher.FormatVersion || i.BlockSize < cipher.MinBlockSize || i.BlockSize > cipher.MaxBlockSize) {
			t.Errorf("static header %v", i)
		}
		if h, err := cipher.InspectHeader(b); err == nil && len(h.Epochs) > cipher.MaxEpochs {
			t.Errorf("header %v", h)
		}
		_, _ = cipher.InspectTrailer(b)
		if _, err := cipher.InspectEntry(b); (err == nil) != (len(b) == cipher.EntrySize) {
			t.Errorf("entry of %d bytes: %v", len(b), err)
		}
	})
}
