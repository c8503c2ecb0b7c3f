package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

func TestVolumeRoundTrip(t *testing.T) {
	for _, layers := range []uint8{1, 2} {
		data, infra := newStores(t, testNames)
		b, want := newConfig(t, layers, data, infra)
		if layers == 1 {
			infra = nil
		}
		c := mustParse(t, b)
		p, got, epoch, err := unlockWith(c, data, infra)
		if err != nil {
			t.Fatal(err)
		}
		if got != want || epoch != 1 || p.Layers != layers || p != c.Params() || len(c.Warnings()) != 0 {
			t.Errorf("%d layers: unlock gives params %v, epoch %d, warnings %q", layers, p, epoch, c.Warnings())
		}
		if got.Data == [32]byte{} || (got.Infra == [32]byte{}) != (layers == 1) || got.Data == got.Infra {
			t.Errorf("%d layers: a key is missing, too many or twice there", layers)
		}
		if !bytes.Equal(c.Bytes(), b) || len(c.Layers()) != int(layers) {
			t.Errorf("%d layers: got layers %v and bytes\n%s", layers, c.Layers(), c.Bytes())
		}
		for _, l := range bothLayers {
			slots := c.Slots(l)
			if uint8(l) > layers {
				if slots != nil || c.Generation(l) != 0 {
					t.Errorf("%d layers: the %s layer has slots", layers, l)
				}
				continue
			}
			want := SlotInfo{Kind: KindGroup, Names: testNames, Epochs: Epochs{1, 1, 1}, VolumeEpoch: 1}
			if len(slots) != 1 || slots[0] != want || c.Generation(l) != 1 {
				t.Errorf("%d layers: slots of the %s layer: got %v", layers, l, slots)
			}
		}
		if c.Slots(0) != nil || c.Slots(3) != nil {
			t.Error("slots of no layer")
		}
	}
}

func TestNewVolumeConfigErrors(t *testing.T) {
	data, infra := newStores(t, testNames)
	copied := &Store{path: "copy", header: infra.header, key: infra.key, content: data.content}
	tests := []struct {
		name        string
		params      cipher.Params
		names       Names
		data, infra *Store
		want        error
	}{
		{"unknown group", testParams(2), Names{"prod", "db-2"}, data, infra, ErrWrongGroup},
		{"unknown cluster", testParams(2), Names{"test", "db-1"}, data, infra, ErrWrongGroup},
		{"bad name", testParams(2), Names{"prod", "DB"}, data, infra, ErrName},
		{"no store", testParams(2), testNames, nil, nil, ErrUsage},
		{"one store for two layers", testParams(2), testNames, data, nil, ErrWrongLayers},
		{"two stores for one layer", testParams(1), testNames, data, infra, ErrWrongLayers},
		{"stores exchanged", testParams(2), testNames, infra, data, ErrWrongKey},
		{"one store twice", testParams(2), testNames, data, data, ErrWrongKey},
		{"stores with one root", testParams(2), testNames, data, copied, ErrUsage},
		{"bad block size", cipher.Params{Format: 1, Suite: 1, Layers: 2, BlockSize: 5000}, testNames, data, infra, ErrUsage},
		{"reserved suite", cipher.Params{Format: 1, Suite: 2, Layers: 2, BlockSize: 4096}, testNames, data, infra, cipher.ErrSuite},
	}
	for _, tt := range tests {
		b, keys, err := NewVolumeConfig(tt.params, tt.names, tt.data, tt.infra, nil)
		check(t, tt.name, err, tt.want)
		if b != nil || keys != (cipher.Keys{}) {
			t.Errorf("%s: got a config or keys with the error", tt.name)
		}
	}
	for n := range 300 {
		_, keys, err := NewVolumeConfig(testParams(2), testNames, data, infra, &failReader{n: n})
		if err == nil {
			if n < 16+4*32+24 {
				t.Errorf("a volume was made of %d random bytes", n)
			}
			return
		}
		if !errors.Is(err, errNoRandom) || keys != (cipher.Keys{}) {
			t.Fatalf("%d random bytes: got error %v", n, err)
		}
	}
	t.Error("no volume was ever made")
}

func TestVolumeKeysSurviveRepeatedRandom(t *testing.T) {
	data, infra := newStores(t, testNames)
	_, a, err := NewVolumeConfig(testParams(2), testNames, data, infra, constReader(9))
	if err != nil {
		t.Fatal(err)
	}
	p := testParams(2)
	p.VolumeID = cipher.VolumeID{1}
	_, b, err := NewVolumeConfig(p, testNames, data, infra, constReader(9))
	if err != nil {
		t.Fatal(err)
	}
	if a.Data == a.Infra || a.Data == b.Data || a.Infra == b.Infra {
		t.Error("keys repeat with the random source")
	}
}

func TestUnlockErrors(t *testing.T) {
	data, infra := newStores(t, testNames)
	strangeData, strangeInfra := newStores(t, testNames)
	otherData, otherInfra := newStores(t, Names{"test", "web"})
	double, _ := newConfig(t, 2, data, infra)
	single, _ := newConfig(t, 1, data, nil)
	tests := []struct {
		name        string
		config      []byte
		data, infra *Store
		want        error
	}{
		{"no store", single, nil, nil, ErrUsage},
		{"one layer asked for", double, data, nil, ErrWrongLayers},
		{"two layers asked for", single, data, infra, ErrWrongLayers},
		{"stores exchanged", double, infra, data, ErrWrongKey},
		{"both stores of another group", double, otherData, otherInfra, ErrWrongGroup},
		{"data store of another group", double, otherData, infra, ErrWrongGroup},
		{"infra store of another group", double, data, otherInfra, ErrWrongGroup},
		{"another group before another key", double, strangeData, otherInfra, ErrWrongGroup},
		{"data store with other keys", double, strangeData, infra, ErrWrongKey},
		{"infra store with other keys", double, data, strangeInfra, ErrWrongKey},
		{"single layer, other group", single, otherData, nil, ErrWrongGroup},
		{"single layer, other keys", single, strangeData, nil, ErrWrongKey},
	}
	for _, tt := range tests {
		p, keys, epoch, err := unlockWith(mustParse(t, tt.config), tt.data, tt.infra)
		check(t, tt.name, err, tt.want)
		if p != (cipher.Params{}) || keys != (cipher.Keys{}) || epoch != 0 {
			t.Errorf("%s: got keys with the error", tt.name)
		}
	}
	_, _, _, err := unlockWith(mustParse(t, double), otherData, otherInfra)
	if !strings.Contains(err.Error(), "prod/db-1") || !strings.Contains(Hint(err), "test") {
		t.Errorf("unknown group: error %q, hint %q", err, Hint(err))
	}
}

func TestConfigEveryBitFlipped(t *testing.T) {
	data, infra := newStores(t, testNames)
	for _, layers := range []uint8{1, 2} {
		good, _ := newConfig(t, layers, data, infra)
		version := bytes.Index(good, []byte(`"version": 1`)) + len(`"version": `)
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			want := ErrTampered
			if bit/8 == version && b[version] >= '0' && b[version] <= '9' {
				want = ErrVersion
			}
			_, err := ParseConfig(b)
			check(t, fmt.Sprintf("bit %d of %q in %q", bit%8, good[bit/8], around(good, bit/8)), err, want)
		}
		for n := range good {
			_, err := ParseConfig(good[:n])
			check(t, fmt.Sprintf("cut to %d bytes", n), err, ErrTruncated)
		}
	}
}

func around(b []byte, i int) []byte { return b[max(0, i-10):min(len(b), i+10)] }

func TestConfigSpellings(t *testing.T) {
	data, infra := newStores(t, testNames)
	good, _ := newConfig(t, 2, data, infra)
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("no %q in the config", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	tests := []struct {
		name   string
		change func(string) string
		want   error
	}{
		{"unknown member", replace(`"version": 1,`, "\"version\": 1,\n  \"note\": \"\","), ErrTampered},
		{"member twice", replace(`"version": 1,`, "\"version\": 1,\n  \"version\": 1,"), ErrTampered},
		{"member in capitals", replace(`"version"`, `"Version"`), ErrTampered},
		{"members exchanged", replace("\"plyfs\": \"volume\",\n  \"version\": 1,", "\"version\": 1,\n  \"plyfs\": \"volume\","), ErrTampered},
		{"number with a fraction", replace(`"root_epoch": 1`, `"root_epoch": 1.0`), ErrTampered},
		{"number with an exponent", replace(`"generation": 1`, `"generation": 1e0`), ErrTampered},
		{"negative number", replace(`"group_epoch": 1`, `"group_epoch": -1`), ErrTampered},
		{"number too large", replace(`"group_epoch": 1`, `"group_epoch": 4294967296`), ErrTampered},
		{"escaped letter", replace(`"prod"`, `"\u0070rod"`), ErrTampered},
		{"space more", replace(`"version": 1`, `"version":  1`), ErrTampered},
		{"no space", replace(`"version": 1`, `"version":1`), ErrTampered},
		{"CRLF", func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }, ErrTampered},
		{"byte order mark", func(s string) string { return "\ufeff" + s }, ErrTampered},
		{"text after the end", func(s string) string { return s + "{}\n" }, ErrTampered},
		{"line more", func(s string) string { return s + "\n" }, ErrTampered},
		{"no line end", func(s string) string { return strings.TrimSuffix(s, "\n") }, ErrTruncated},
		{"empty", func(string) string { return "" }, ErrTruncated},
		{"other JSON", func(string) string { return "{}\n" }, ErrTampered},
		{"an array", func(string) string { return "[]\n" }, ErrTampered},
		{"null", func(string) string { return "null\n" }, ErrTampered},
		{"deep nesting", func(string) string { return strings.Repeat("[", 60000) }, ErrTampered},
		{"no JSON", func(string) string { return "hello\n" }, ErrTampered},
		{"too long", func(s string) string { return s + strings.Repeat("\n", configMaxSize) }, ErrTampered},
		{"later version with more members", func(string) string { return `{"plyfs":"volume","version":2,"new":[]}` }, ErrVersion},
		{"other file", func(string) string { return `{"plyfs":"bundle","version":1}` }, ErrTampered},
	}
	for _, tt := range tests {
		_, err := ParseConfig([]byte(tt.change(string(good))))
		check(t, tt.name, err, tt.want)
	}
	// base64 whose last, unused bits are not zero decodes to the same bytes
	i := bytes.Index(good, []byte(`=",`))
	for c := range 128 {
		b := bytes.Clone(good)
		b[i-1] = byte(c)
		if _, err := ParseConfig(b); (err == nil) != bytes.Equal(b, good) {
			t.Errorf("base64 ending in %q: got error %v", rune(c), err)
		}
	}
}

// TestConfigTampering changes what an adversary without keys can change, with checksums that hold.
func TestConfigTampering(t *testing.T) {
	data, infra := newStores(t, testNames)
	if err := errors.Join(data.AddGroup(Names{"prod", "db-2"}), infra.AddGroup(Names{"prod", "db-2"})); err != nil {
		t.Fatal(err)
	}
	b, keys := newConfig(t, 2, data, infra)
	other, _ := newConfig(t, 2, data, infra) // another volume of the group
	single, _ := newConfig(t, 1, data, nil)
	later := nextGeneration(t, b, keys, 1)
	from := func(b []byte) (e envelope) {
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	o, s, l := from(other), from(single), from(later)
	tests := []struct {
		name   string
		change func(e *envelope)
		want   error
	}{
		{"nothing", func(*envelope) {}, nil},
		{"slots of the layers exchanged", func(e *envelope) {
			e.Data.Slots, e.Infra.Slots = e.Infra.Slots, e.Data.Slots
		}, ErrTampered},
		{"sections exchanged", func(e *envelope) { e.Data, e.Infra = e.Infra, e.Data }, ErrTampered},
		{"data slot of another volume", func(e *envelope) { e.Data.Slots = o.Data.Slots }, ErrTampered},
		{"infra slot of another volume", func(e *envelope) { e.Infra.Slots = o.Infra.Slots }, ErrTampered},
		{"data section of another volume", func(e *envelope) { e.Data = o.Data }, ErrTampered},
		{"infra section of another volume", func(e *envelope) { e.Infra = o.Infra }, ErrTampered},
		{"descriptor of another volume", func(e *envelope) { e.Descriptor = o.Descriptor }, ErrTampered},
		{"descriptor and data section of another volume", func(e *envelope) { e.Descriptor, e.Data = o.Descriptor, o.Data }, ErrTampered},
		{"descriptor and infra section of another volume", func(e *envelope) { e.Descriptor, e.Infra = o.Descriptor, o.Infra }, ErrTampered},
		{"infra section taken away", func(e *envelope) { e.Infra = nil }, ErrTampered},
		{"downgraded to one layer", func(e *envelope) {
			e.Infra, e.Descriptor[8], e.Descriptor[9] = nil, 0, 1
		}, ErrWrongLayers},
		{"exchanged for a single-layer volume", func(e *envelope) { e.Descriptor, e.Data, e.Infra = s.Descriptor, s.Data, nil }, ErrWrongLayers},
		{"suite of one layer with two sections", func(e *envelope) { e.Descriptor[8], e.Descriptor[9] = 0, 1 }, ErrTampered},
		{"suite without its layers", func(e *envelope) { e.Descriptor[8] = 0 }, ErrVersion},
		{"layers without their suite", func(e *envelope) { e.Descriptor[9] = 1 }, ErrVersion},
		{"reserved suite", func(e *envelope) { e.Descriptor[8] = 2 }, ErrVersion},
		{"unknown suite", func(e *envelope) { e.Descriptor[8] = 9 }, ErrVersion},
		{"later format", func(e *envelope) { e.Descriptor[7] = 2 }, ErrVersion},
		{"later descriptor", func(e *envelope) { e.Descriptor[5] = 2 }, ErrVersion},
		{"block size", func(e *envelope) { e.Descriptor[10]++ }, ErrTampered},
		{"block size out of range", func(e *envelope) { e.Descriptor[10] = 11 }, ErrTampered},
		{"block size of 2^200", func(e *envelope) { e.Descriptor[10] = 200 }, ErrTampered},
		{"volume ID", func(e *envelope) { e.Descriptor[15]++ }, ErrTampered},
		{"no volume ID", func(e *envelope) { clear(e.Descriptor[12:28]) }, ErrTampered},
		{"reserved byte", func(e *envelope) { e.Descriptor[11] = 1 }, ErrTampered},
		{"reserved bytes at the end", func(e *envelope) { e.Descriptor[31] = 1 }, ErrTampered},
		{"short descriptor", func(e *envelope) { e.Descriptor = e.Descriptor[:31] }, ErrTruncated},
		{"no descriptor", func(e *envelope) { e.Descriptor = nil }, ErrTruncated},
		{"long descriptor", func(e *envelope) { e.Descriptor = append(e.Descriptor, 0) }, ErrTampered},
		{"descriptor's magic", func(e *envelope) { e.Descriptor[0] = 'p' }, ErrTampered},
		{"data generation", func(e *envelope) { e.Data.Generation++ }, ErrTampered},
		{"infra generation", func(e *envelope) { e.Infra.Generation++ }, ErrTampered},
		{"generation 0", func(e *envelope) { e.Infra.Generation = 0 }, ErrTampered},
		{"endless generation", func(e *envelope) { e.Infra.Generation = 1<<53 + 1 }, ErrTampered},
		{"MAC of a later generation", func(e *envelope) { e.Data.MAC = l.Data.MAC }, ErrTampered},
		{"slot twice", func(e *envelope) { e.Data.Slots = append(e.Data.Slots, e.Data.Slots[0]) }, ErrTampered},
		{"slot of another volume added", func(e *envelope) { e.Infra.Slots = append(e.Infra.Slots, o.Infra.Slots[0]) }, ErrTampered},
		{"no slots", func(e *envelope) { e.Infra.Slots = nil }, ErrTampered},
		{"too many slots", func(e *envelope) {
			for len(e.Data.Slots) <= maxSlots {
				e.Data.Slots = append(e.Data.Slots, e.Data.Slots[0])
			}
		}, ErrTampered},
		{"kind of a later version", func(e *envelope) { e.Data.Slots[0].Kind = "escrow" }, ErrVersion},
		{"group slot said to be a recovery slot", func(e *envelope) { e.Data.Slots[0].Kind = KindRecovery }, ErrTampered},
		{"group slot said to have a provider", func(e *envelope) { e.Data.Slots[0].Kind = KindProvider }, ErrTampered},
		{"group slot with a name", func(e *envelope) { e.Data.Slots[0].Name = "x" }, ErrTampered},
		{"no slot left", func(e *envelope) { e.Data.Slots = []jsonSlot{} }, ErrRetired},
		{"provider in a group slot", func(e *envelope) { e.Data.Slots[0].Provider = "kms" }, ErrTampered},
		{"wrapped secret in a group slot", func(e *envelope) { e.Data.Slots[0].Wrapped = []byte{1} }, ErrTampered},
		{"unknown group", func(e *envelope) { e.Data.Slots[0].Group = "db-3" }, ErrWrongGroup},
		{"other known group", func(e *envelope) { e.Data.Slots[0].Group = "db-2" }, ErrWrongKey},
		{"bad group", func(e *envelope) { e.Data.Slots[0].Group = "../x" }, ErrTampered},
		{"root epoch", func(e *envelope) { e.Data.Slots[0].RootEpoch = 2 }, ErrWrongKey},
		{"cluster epoch", func(e *envelope) { e.Infra.Slots[0].ClusterEpoch = 2 }, ErrWrongKey},
		{"group epoch 0", func(e *envelope) { e.Infra.Slots[0].GroupEpoch = 0 }, ErrTampered},
		{"volume epoch", func(e *envelope) { e.Infra.Slots[0].VolumeEpoch = 2 }, ErrTampered},
		{"key ID", func(e *envelope) { e.Infra.Slots[0].KeyID[0]++ }, ErrWrongKey},
		{"short key ID", func(e *envelope) { e.Infra.Slots[0].KeyID = e.Infra.Slots[0].KeyID[1:] }, ErrTampered},
		{"short salt", func(e *envelope) { e.Infra.Slots[0].Salt = e.Infra.Slots[0].Salt[1:] }, ErrTampered},
		{"long commitment", func(e *envelope) { e.Data.Slots[0].Commitment = append(e.Data.Slots[0].Commitment, 0) }, ErrTampered},
		{"sealed key cut", func(e *envelope) { e.Data.Slots[0].Sealed = e.Data.Slots[0].Sealed[:59] }, ErrTampered},
		{"no MAC", func(e *envelope) { e.Infra.MAC = nil }, ErrTampered},
		{"short MAC of the descriptor", func(e *envelope) { e.Data.DescriptorMAC = e.Data.DescriptorMAC[:16] }, ErrTampered},
	}
	for _, tt := range tests {
		err := unlockBytes(edit(t, b, tt.change), data, infra)
		check(t, tt.name, err, tt.want)
	}
}

func unlockBytes(b []byte, data, infra *Store) error {
	c, err := ParseConfig(b)
	if err != nil {
		return err
	}
	_, _, _, err = unlockWith(c, data, infra)
	return err
}

// TestConfigFieldsEveryBit flips each bit of each binary member, with checksums that hold.
func TestConfigFieldsEveryBit(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	fields := map[string]func(e *envelope) []byte{"descriptor": func(e *envelope) []byte { return e.Descriptor }}
	for i, l := range bothLayers {
		sec := func(e *envelope) *jsonSection { return []*jsonSection{e.Data, e.Infra}[i] }
		fields[l.String()+" salt"] = func(e *envelope) []byte { return sec(e).Slots[0].Salt }
		fields[l.String()+" commitment"] = func(e *envelope) []byte { return sec(e).Slots[0].Commitment }
		fields[l.String()+" sealed"] = func(e *envelope) []byte { return sec(e).Slots[0].Sealed }
		fields[l.String()+" descriptor MAC"] = func(e *envelope) []byte { return sec(e).DescriptorMAC }
		fields[l.String()+" MAC"] = func(e *envelope) []byte { return sec(e).MAC }
		fields[l.String()+" key ID"] = func(e *envelope) []byte { return sec(e).Slots[0].KeyID }
	}
	for name, field := range fields {
		var e envelope
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		n := len(field(&e))
		for bit := range 8 * n {
			err := unlockBytes(edit(t, b, func(e *envelope) { field(e)[bit/8] ^= 1 << (bit % 8) }), data, infra)
			want := ErrTampered
			switch {
			case strings.HasSuffix(name, "key ID"):
				want = ErrWrongKey
			case name == "descriptor" && bit/8 >= 4 && bit/8 <= 9:
				want = ErrVersion
			}
			check(t, fmt.Sprintf("%s, bit %d", name, bit), err, want)
		}
	}
}

func TestGroupMovedBetweenSlots(t *testing.T) {
	data, infra := newStores(t, testNames)
	moved := Names{"prod", "db-2"}
	if err := errors.Join(data.AddGroup(moved), infra.AddGroup(moved)); err != nil {
		t.Fatal(err)
	}
	b, keys := newConfig(t, 2, data, infra)
	f, err := parseVolumeFile("test", b)
	if err != nil {
		t.Fatal(err)
	}
	stores := [2]*Store{data, infra}
	for i, v := range []*secret{{b: keys.Data}, {b: keys.Infra}} {
		g, err := stores[i].GroupKey(moved)
		if err != nil {
			t.Fatal(err)
		}
		sl, err := testPlies[i].wrap(g, nil, v, 1, hashDescriptor(g.layer, f.descriptor), randomOr(nil))
		if err != nil {
			t.Fatal(err)
		}
		f.sections[i].slots = append([]*slot{sl}, f.sections[i].slots...)
		testPlies[i].authenticate(f.sections[i], v, f.descriptor)
	}
	b = edit(t, b, func(e *envelope) { e.Data, e.Infra = f.sections[0].json(), f.sections[1].json() })
	for _, remove := range []string{"", "db-1", "db-2"} {
		for _, s := range stores {
			cl := s.content.clusters[0]
			s.content.clusters[0].groups = nil
			for _, g := range []group{{"db-1", 1}, {"db-2", 1}} {
				if g.name != remove {
					s.content.clusters[0].groups = append(s.content.clusters[0].groups, g)
				}
			}
			defer func() { s.content.clusters[0] = cl }()
		}
		_, got, _, err := unlockWith(mustParse(t, b), data, infra)
		if err != nil || got != keys {
			t.Errorf("stores without %q: error %v", remove, err)
		}
	}
	// one slot spoilt on purpose: the other opens, and the section's MAC refuses
	spoilt := edit(t, b, func(e *envelope) { e.Data.Slots[0].Sealed[20]++ })
	check(t, "first slot spoilt", unlockBytes(spoilt, data, infra), ErrTampered)
}

func TestLayersOfDifferentVolumeEpochs(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	f, err := parseVolumeFile("test", b)
	if err != nil {
		t.Fatal(err)
	}
	g, err := infra.GroupKey(testNames)
	if err != nil {
		t.Fatal(err)
	}
	v := &secret{b: keys.Infra}
	sl, err := testPlies[1].wrap(g, nil, v, 2, hashDescriptor(2, f.descriptor), randomOr(nil))
	if err != nil {
		t.Fatal(err)
	}
	f.sections[1].slots = []*slot{sl}
	testPlies[1].authenticate(f.sections[1], v, f.descriptor)
	b = edit(t, b, func(e *envelope) { e.Infra = f.sections[1].json() })
	check(t, "epochs 1 and 2", unlockBytes(b, data, infra), ErrTampered)
}

func TestNoSecretInConfig(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, keys := newConfig(t, 2, data, infra)
	secrets := [][32]byte{keys.Data, keys.Infra, data.key.b, infra.key.b, data.content.roots[0].key.b, infra.content.roots[0].key.b}
	for _, s := range secrets {
		for _, form := range []string{string(s[:]), fmt.Sprintf("%x", s), base64.StdEncoding.EncodeToString(s[:])[:40]} {
			for _, where := range [][]byte{b, readFile(t, data.Path()), readFile(t, infra.Path())} {
				if bytes.Contains(where, []byte(form)) {
					t.Error("a key lies in the open")
				}
			}
		}
	}
}
