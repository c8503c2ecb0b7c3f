package cipher

import "encoding/binary"

// AuthTagSize is the length of an Authenticator's tag: MAC1 16 | MAC2 16.
const AuthTagSize = 2 * macSize

// Authenticator makes and checks tags of both layers over structures that other
// packages lay out, under keys of its label (FORMAT.md §11). The two MACs stand
// side by side, each enough to test a guess of what they cover: parts must be
// sealed or public bytes, never secrets. It is safe for concurrent use, but not
// beside Wipe, which drops its keys; Restore brings them back.
type Authenticator struct {
	v     *Volume
	label string
	macs  *macs // nil while wiped; guarded by v.mu
}

// Authenticator returns the authenticator of a label. Labels name one use each.
// It returns nil once the volume was wiped.
func (v *Volume) Authenticator(label string) *Authenticator {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys == nil {
		return nil
	}
	a := &Authenticator{v: v, label: label}
	a.derive()
	v.auths = append(v.auths, a)
	return a
}

// derive makes the authenticator's keys. v.mu is held.
func (a *Authenticator) derive() {
	keys := a.v.deriveBoth(labelAuth, []byte(a.label))
	a.macs = newMACs(a.v, macSize, keys)
	clear(keys[0][:])
	clear(keys[1][:])
}

// atHand returns the MACs, nil while wiped.
func (a *Authenticator) atHand() *macs {
	a.v.mu.RLock()
	defer a.v.mu.RUnlock()
	return a.macs
}

// Sum writes the tag of the parts, in their order and with their lengths, to
// dst, which is AuthTagSize bytes and may follow the parts in one buffer. MAC2
// is zero in a single-layer volume. It panics while the keys are wiped: a tag
// that never verifies must not get to a disk.
func (a *Authenticator) Sum(dst []byte, parts ...[]byte) {
	if len(dst) != AuthTagSize {
		panic("cipher: Sum to a buffer of a wrong length")
	}
	m := a.atHand()
	if m == nil {
		panic("cipher: Sum: " + ErrWiped.Error())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(dst[macSize:])
	for i := range int(m.v.params.Layers) {
		copy(dst[i*macSize:(i+1)*macSize], m.list(i, parts))
	}
}

// Verify reports whether tag is that of the parts. Nothing is while the keys
// are wiped.
func (a *Authenticator) Verify(tag []byte, parts ...[]byte) bool {
	if len(tag) != AuthTagSize {
		return false
	}
	m := a.atHand()
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ok := m.v.double() || isZero(tag[macSize:])
	for i := range int(m.v.params.Layers) {
		ok = m.v.plies[i].equal(tag[i*macSize:(i+1)*macSize], m.list(i, parts)) && ok
	}
	return ok
}

// list computes a layer's MAC over a list of parts, each after its length. The
// result is valid until the next call. The caller holds m.mu.
func (m *macs) list(layer int, parts [][]byte) []byte {
	m.start(layer, typeAuth, [16]byte{}, uint64(len(parts)))
	for _, p := range parts {
		binary.BigEndian.PutUint64(m.length[:], uint64(len(p)))
		m.h[layer].Write(m.length[:])
		m.h[layer].Write(p)
	}
	return m.finish(layer)
}
