package journal

import (
	"errors"
	"reflect"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// sample is a record with everything.
func sample(l cipher.Layout) *Record {
	id := fileID(3)
	ext := func(first uint64, n, last int) Extent {
		e := Extent{First: first}
		for k := range n {
			size := testBlock
			if k == n-1 {
				size = last
			}
			e.Entries = append(e.Entries, stampBlock(cipher.EntrySize, id, first+uint64(k), 7)...)
			e.Bodies = append(e.Bodies, stampBlock(size, id, first+uint64(k), 7)...)
		}
		return e
	}
	return &Record{
		File: id, Hint: 99, MtimeSec: -5, MtimeNsec: 999999999,
		Size: 97*testBlock - 96, Last: 2, Cut: 30,
		Trailers: []Trailer{
			{Group: 0, Present: 1<<(30+16) | 1<<(31+16) | 1<<20, Epoch: 1},
			{Group: 2, Present: 1 << l.Slot(96), Gap: 1, Epoch: 2},
		},
		Extents: []Extent{ext(30, 2, testBlock), ext(96, 1, 4000)},
	}
}

// homeSample is a record of a stream, with a head.
func homeSample(l cipher.Layout) *Record {
	r := sample(l)
	r.Cut, r.Home, r.Size, r.Last = NoCut, l.FirstBlock(3), int64(l.FirstBlock(5))*testBlock+7, 5
	return r
}

func encode(r *Record, lsn LSN) []byte {
	b := make([]byte, r.info().total)
	r.encode(b, lsn)
	return b
}

func TestRecordRoundTrip(t *testing.T) {
	l := testLayout(t)
	tests := map[string]*Record{
		"everything": sample(l),
		"mtime only": {File: fileID(1), Size: NoSize, Cut: NoCut, MtimeSec: 12},
		"empty file": {File: fileID(1), Size: 0, Cut: 0, Trailers: []Trailer{{Epoch: 1}}},
		"home":       homeSample(l),
		"gone":       {File: fileID(1), Size: NoSize, Cut: NoCut, gone: true},
		"moved":      {File: fileID(1), Size: NoSize, Cut: 2, moved: true, Trailers: []Trailer{{Present: 1 << 20, Epoch: 1}}},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			if err := want.check(l); err != nil {
				t.Fatal(err)
			}
			b := encode(want, 42)
			in, err := recordBounds(append(b, 1, 2, 3))
			must(t, err)
			if in != want.info() || len(b)%8 != 0 {
				t.Fatalf("bounds %+v, want %+v", in, want.info())
			}
			got, lsn, err := parseRecord(b, in, l)
			must(t, err)
			if lsn != 42 || !bodiesIntact(b, in) {
				t.Errorf("LSN %d, bodies intact %v", lsn, bodiesIntact(b, in))
			}
			if len(got.Extents) == 0 {
				got.Extents = nil
			}
			if len(got.Trailers) == 0 {
				got.Trailers = nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestRecordRules(t *testing.T) {
	l := testLayout(t)
	tests := map[string]func(*Record){
		"size below none":           func(r *Record) { r.Size = -2 },
		"size beyond the largest":   func(r *Record) { r.Size = l.MaxSize() + 1 },
		"last beyond size":          func(r *Record) { r.Last = 3 },
		"nanoseconds":               func(r *Record) { r.MtimeNsec = 1e9 },
		"cut beyond any file":       func(r *Record) { r.Cut = NoCut - 1 },
		"block kept beyond the cut": func(r *Record) { r.Cut = 2 },
		"trailers not ascending":    func(r *Record) { r.Trailers[0], r.Trailers[1] = r.Trailers[1], r.Trailers[0] },
		"one group twice":           func(r *Record) { r.Trailers[1].Group = 0 },
		"57th bit":                  func(r *Record) { r.Trailers[1].Present |= 1 << 56 },
		"header bit":                func(r *Record) { r.Trailers[0].Present |= 1 << 15 },
		"gap before the file":       func(r *Record) { r.Trailers[1].Gap = 3 },
		"gap of group 0":            func(r *Record) { r.Trailers[0].Gap = 1 },
		"group beyond any file":     func(r *Record) { r.Trailers[1].Group = ^uint64(0) },
		"block without trailer":     func(r *Record) { r.Trailers = r.Trailers[:1] },
		"block not present":         func(r *Record) { r.Trailers[1].Present = 2 },
		"extent beyond any file":    func(r *Record) { r.Extents[1].First = ^uint64(0) },
		"extents overlap":           func(r *Record) { r.Extents[1].First = 31 },
		"extent of nothing":         func(r *Record) { r.Extents[1].Entries = nil },
		"half an entry":             func(r *Record) { r.Extents[1].Entries = r.Extents[1].Entries[:71] },
		"body too long":             func(r *Record) { r.Extents[1].Bodies = make([]byte, testBlock+1) },
		"body missing":              func(r *Record) { r.Extents[1].Bodies = nil },
		"short body in the middle":  func(r *Record) { r.Extents[0].Bodies = r.Extents[0].Bodies[:testBlock] },
		"gone with content":         func(r *Record) { r.gone = true },
		"moved without a cut":       func(r *Record) { r.Cut, r.moved = NoCut, true },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := sample(l)
			change(r)
			if err := r.check(l); !errors.Is(err, errRecord) {
				t.Errorf("got %v, want errRecord", err)
			}
		})
	}
	if err := sample(l).check(l); err != nil {
		t.Errorf("the sample itself: %v", err)
	}
}

func TestRecordOfStreamRules(t *testing.T) {
	l := testLayout(t)
	tests := map[string]func(*Record){
		"without a size":         func(r *Record) { r.Size, r.Last = NoSize, 0 },
		"with a cut":             func(r *Record) { r.Cut = 1 << 20 },
		"within a group":         func(r *Record) { r.Home++ },
		"group 0":                func(r *Record) { r.Home = 1 },
		"beyond any file":        func(r *Record) { r.Home = ^uint64(0) },
		"nothing of it is there": func(r *Record) { r.Last = 2 },
		"trailer of home":        func(r *Record) { r.Trailers[1].Group = 3 },
		"gone":                   func(r *Record) { *r = Record{Size: NoSize, Cut: NoCut, Home: r.Home, gone: true} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := homeSample(l)
			change(r)
			if err := r.check(l); !errors.Is(err, errRecord) {
				t.Errorf("got %v, want errRecord", err)
			}
		})
	}
	b := encode(homeSample(l), 1)
	b[5] |= recFlagCut
	if _, _, err := parseRecord(b, homeSample(l).info(), l); !errors.Is(err, errRecord) {
		t.Errorf("home and a cut: got %v, want errRecord", err)
	}
}

// A record of a stream says that all before it, from its first block on, is
// overruled, and that no cut before it is still to be done.
func TestRecordOfStreamInTheIndex(t *testing.T) {
	l := testLayout(t)
	j := &Journal{cfg: Config{Layout: l}}
	f := &File{j: j, id: fileID(3), groups: map[uint64]*group{}}
	seg := &segment{}
	old := homeSample(l)
	old.Home = 0
	old.Trailers = append(old.Trailers, Trailer{Group: 4, Present: 1 << 3})
	f.apply(old, 1, Pos{seg, 4096})
	f.apply(&Record{File: f.id, Size: NoSize, Cut: l.FirstBlock(4) + 1}, 2, Pos{seg, 1 << 20})
	if f.VoidFrom() == NoCut || f.groups[4] == nil {
		t.Fatal("nothing to overrule")
	}
	f.apply(homeSample(l), 3, Pos{seg, 2 << 20})
	if f.VoidFrom() != NoCut || f.groups[4] != nil || f.groups[2] == nil || f.groups[2].lsn != 3 {
		t.Errorf("void from %d, group 4 %v, group 2 %v", f.VoidFrom(), f.groups[4], f.groups[2])
	}
	f.dropAll()
	if f.items != 0 || len(f.refs) != 0 {
		t.Errorf("%d items and %d segments are still held", f.items, len(f.refs))
	}
}

func TestRecordOfAnotherVersion(t *testing.T) {
	l := testLayout(t)
	for name, at := range map[string]int{"kind": 4, "flags": 5, "reserved": 6} {
		b := encode(sample(l), 1)
		b[at] |= 0x80
		if _, _, err := parseRecord(b, sample(l).info(), l); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: got %v, want ErrVersion", name, err)
		}
	}
}

// No bytes make the parser of records panic or read beyond them, and what it
// accepts comes back the same.
func FuzzRecord(f *testing.F) {
	l, _ := cipher.NewLayout(testBlock)
	f.Add(encode(sample(l), 9))
	f.Add(encode(homeSample(l), 9))
	f.Add(encode(&Record{Size: NoSize, Cut: NoCut, gone: true}, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := recordBounds(b)
		if err != nil {
			return
		}
		bodiesIntact(b, in)
		r, lsn, err := parseRecord(b, in, l)
		if err != nil {
			return
		}
		c := encode(r, lsn)
		again, lsn2, err := parseRecord(c, r.info(), l)
		if err != nil || lsn2 != lsn || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

// Nor do they the parser of batches.
func FuzzBatch(f *testing.F) {
	l, _ := cipher.NewLayout(testBlock)
	rec := encode(sample(l), 9)
	b := make([]byte, roundPage(batchHead+len(rec)))
	copy(b[batchHead:], rec)
	h := batchHeader{length: len(b), payload: len(rec), records: 1, first: 9, mark: 8, seg: 2, off: 4096}
	h.encode(b)
	sealBatch(b, []recPlace{{batchHead, sample(l).info()}}, testAuth("key"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, _, ok := parseBatchHeader(b, int64(len(b)))
		if !ok {
			return
		}
		records, ok := verifyBatch(b, &h, testAuth("key"))
		if !ok {
			return
		}
		for _, r := range records {
			bodiesIntact(b[r.at:], r.in)
			parseRecord(b[r.at:], r.in, l)
		}
	})
}

func FuzzSegmentHeader(f *testing.F) {
	h := segHeader{journal: ID{1}, run: ID{2}, seq: 3, first: 4, size: testSegment}
	b := make([]byte, segHead)
	h.encode(b, testAuth("key"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= segHead {
			testAuth("key").Sum(b[segTagOff:segHead], segmentLabel, b[:segTagOff])
		}
		got, v := parseSegHeader(b, ID{1}, testAuth("key"))
		if v == segGood && (got.seq == 0 || got.size < minSegment) {
			t.Errorf("accepted %+v", got)
		}
	})
}
