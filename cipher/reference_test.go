package cipher_test

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// What follows is a second implementation of FORMAT.md, written from the
// document with nothing of the package: plain, slow, each layer by itself. The
// vectors are its output, so package, document and vectors hold each other.

type refVolume struct {
	suite, layers, log2B byte
	id                   [16]byte
	epoch                uint32
	v1, v2               [32]byte
}

func u16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func cat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// FORMAT.md §3

func (r refVolume) context(layer byte) []byte {
	return cat([]byte{layer}, u16(1), []byte{r.suite, r.layers}, r.id[:])
}

func refLabel(label string) []byte { return append([]byte(label), make([]byte, 24-len(label))...) }

func refP1(key []byte, label string, info []byte) []byte {
	return must(hkdf.Expand(sha256.New, key, string(cat(refLabel(label), info)), 32))
}

func refP2(key []byte, label string, info []byte) []byte {
	h := must(blake2b.New(32, key))
	h.Write(cat(refLabel(label), info))
	return h.Sum(nil)
}

func (r refVolume) d1(label string, info ...[]byte) []byte {
	return refP1(r.v1[:], label, cat(r.context(1), u32(r.epoch), cat(info...)))
}

func (r refVolume) d2(label string, info ...[]byte) []byte {
	return refP2(r.v2[:], label, cat(r.context(2), u32(r.epoch), cat(info...)))
}

func (r refVolume) head(layer, typ byte, id [16]byte, number uint64) []byte {
	return cat([]byte{typ}, r.context(layer), id[:], u64(number))
}

func (r refVolume) mac1(key []byte, n int, typ byte, id [16]byte, number uint64, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(cat(r.head(1, typ, id, number), body))
	return h.Sum(nil)[:n]
}

func (r refVolume) mac2(key []byte, n int, typ byte, id [16]byte, number uint64, body []byte) []byte {
	if r.suite == 0 {
		return make([]byte, n)
	}
	h := must(blake2b.New(n, key))
	h.Write(cat(r.head(2, typ, id, number), body))
	return h.Sum(nil)
}

func (r refVolume) macs(key1, key2 []byte, typ byte, id [16]byte, number uint64, body []byte) []byte {
	return cat(r.mac1(key1, 16, typ, id, number, body), r.mac2(key2, 16, typ, id, number, body))
}

// FORMAT.md §5

func refGCM(key []byte) gocipher.AEAD {
	return must(gocipher.NewGCM(must(aes.NewCipher(key))))
}

// sealBoth returns n2 and S | T2.
func (r refVolume) sealBoth(sub, k2, k2n, salt, rnd, n1, plain, aad1, aad2 []byte) (n2, out []byte) {
	inner := cat(n1, refGCM(sub).Seal(nil, n1, plain, aad1))
	if r.suite == 0 {
		return make([]byte, 12), cat(inner, make([]byte, 16))
	}
	h := must(chacha20.HChaCha20(k2n, inner[len(inner)-16:]))
	n2 = make([]byte, 12)
	for i := range n2 {
		n2[i] = rnd[i] ^ h[i]
	}
	return n2, must(chacha20poly1305.NewX(k2)).Seal(nil, cat(salt, n2), inner, aad2)
}

type refFile struct {
	refVolume
	fileID [16]byte
	salt   [32]byte
}

func (f refFile) keyInfo() []byte { return cat(f.salt[:], f.fileID[:]) }

func (f refFile) aad(layer byte, length int, index uint64) []byte {
	return cat([]byte{1}, f.context(layer), []byte{f.log2B}, u32(f.epoch), u32(uint32(length)), f.fileID[:], u64(index))
}

func (f refFile) sealBlock(index uint64, plain, salt, rnd, n1 []byte) (body, entry []byte) {
	sub := refP1(f.d1("plyfs/1/file", f.keyInfo()), "plyfs/1/blk", salt)
	n2, out := f.sealBoth(sub, f.d2("plyfs/1/file", f.keyInfo()), f.d2("plyfs/1/file-nonce", f.keyInfo()),
		salt, rnd, n1, plain, f.aad(1, len(plain), index), f.aad(2, len(plain), index))
	n := len(plain)
	return out[12 : 12+n], cat(salt, n2, u32(f.epoch), out[:12], out[12+n:12+n+16], out[12+n+16:])
}

// peelOuter takes layer 2 off a block, with the keys of layer 2 alone.
func (f refFile) peelOuter(index uint64, body, entry []byte) (inner []byte, err error) {
	sealed := cat(entry[28:40], body, entry[40:56])
	if f.suite == 0 {
		return sealed, nil
	}
	return must(chacha20poly1305.NewX(f.d2("plyfs/1/file", f.keyInfo()))).
		Open(nil, entry[:24], cat(sealed, entry[56:]), f.aad(2, len(body), index))
}

// peelInner takes layer 1 off what peelOuter left, with the keys of layer 1
// alone.
func (f refFile) peelInner(index uint64, salt, inner []byte) ([]byte, error) {
	sub := refP1(f.d1("plyfs/1/file", f.keyInfo()), "plyfs/1/blk", salt)
	return refGCM(sub).Open(nil, inner[:12], inner[12:], f.aad(1, len(inner)-28, index))
}

// FORMAT.md §6 and §7

func (f refFile) fileMACs(typ byte, number uint64, body []byte) []byte {
	return f.macs(f.d1("plyfs/1/file-mac", f.keyInfo()), f.d2("plyfs/1/file-mac", f.keyInfo()), typ, f.fileID, number, body)
}

func (f refFile) static() []byte {
	b := cat([]byte("PLYF"), u16(1), []byte{f.suite, f.layers, f.log2B, 0, 0, 0}, u32(f.epoch), f.id[:], f.fileID[:], f.salt[:], make([]byte, 400))
	return cat(b, f.fileMACs(3, 0, b))
}

func (f refFile) staticCopy() []byte {
	b := cat([]byte("PLYC"), []byte{f.log2B, 0, 0, 0}, u32(f.epoch), u32(0), f.fileID[:], f.salt[:], make([]byte, 32))
	return cat(b, f.fileMACs(10, 0, b))
}

func (f refFile) header(size, lsn, last uint64, epochs []uint32) []byte {
	b := cat([]byte("PLYH"), []byte{byte(len(epochs)), 0, 0, 0}, u64(size), u64(lsn), u64(last))
	for _, e := range epochs {
		b = append(b, u32(e)...)
	}
	b = append(b, make([]byte, 480-len(b))...)
	return cat(b, f.fileMACs(4, 0, b))
}

func (f refFile) trailer(group, present, gap, lsn uint64) []byte {
	b := cat([]byte("PLYT"), u32(f.epoch), u64(present), u64(gap), u64(lsn))
	return cat(b, f.fileMACs(2, group, b))
}

// FORMAT.md §8

func (r refVolume) name(dir [16]byte, name string) string {
	n := []byte(name)
	siv := r.mac1(r.d1("plyfs/1/name-mac"), 16, 5, dir, uint64(len(n)), n)
	x := make([]byte, len(n))
	gocipher.NewCTR(must(aes.NewCipher(r.d1("plyfs/1/name-enc"))), siv).XORKeyStream(x, n)
	x = cat(siv, x)
	if r.suite == 0 {
		return base64.RawURLEncoding.EncodeToString(x)
	}
	siv = r.mac2(r.d2("plyfs/1/name-mac"), 16, 5, dir, uint64(len(x)), x)
	y := make([]byte, len(x))
	must(chacha20.NewUnauthenticatedCipher(r.d2("plyfs/1/name-enc"), cat(siv, make([]byte, 8)))).XORKeyStream(y, x)
	return base64.RawURLEncoding.EncodeToString(cat(siv, y))
}

func refLongName(sealed string) string {
	h := sha256.Sum256([]byte(sealed))
	return "plyfs.long." + base64.RawURLEncoding.EncodeToString(h[:])
}

func (r refVolume) xattrName(owner [16]byte, name string) string {
	x := r.mac1(r.d1("plyfs/1/xattr-name"), 32, 6, owner, uint64(len(name)), []byte(name))
	for i, c := range r.mac2(r.d2("plyfs/1/xattr-name"), 32, 6, owner, uint64(len(name)), []byte(name)) {
		x[i] ^= c
	}
	return base64.RawURLEncoding.EncodeToString(x)
}

// FORMAT.md §9 to §11

func (r refVolume) blobAAD(layer, kind byte, owner [16]byte, length int) []byte {
	return cat([]byte{7}, r.context(layer), []byte{kind}, u32(r.epoch), u32(uint32(length)), owner[:])
}

func (r refVolume) blob(kind byte, owner [16]byte, plain, salt, rnd, n1 []byte) []byte {
	sub := refP1(r.d1("plyfs/1/blob"), "plyfs/1/blob-blk", salt)
	n2, out := r.sealBoth(sub, r.d2("plyfs/1/blob"), r.d2("plyfs/1/blob-nonce"), salt, rnd, n1, plain,
		r.blobAAD(1, kind, owner, len(plain)), r.blobAAD(2, kind, owner, len(plain)))
	return cat(salt, n2, u32(r.epoch), out)
}

func refXattr(name string, value []byte) []byte {
	return cat(u16(uint16(len(name))), []byte(name), value)
}

func (r refVolume) dirID(id [16]byte) []byte {
	b := cat([]byte("PLYD"), u16(1), []byte{r.suite, r.layers}, u32(r.epoch), u32(0), r.id[:], id[:])
	return cat(b, r.macs(r.d1("plyfs/1/dir-id"), r.d2("plyfs/1/dir-id"), 8, id, 0, b))
}

func (r refVolume) structure(label string, parts ...[]byte) []byte {
	var body []byte
	for _, p := range parts {
		body = cat(body, u64(uint64(len(p))), p)
	}
	return r.macs(r.d1("plyfs/1/auth", []byte(label)), r.d2("plyfs/1/auth", []byte(label)), 9, [16]byte{}, uint64(len(parts)), body)
}

func newRefVolume(suite byte, blockSize uint32, id [16]byte, epoch uint32, v1, v2 [32]byte) refVolume {
	if suite > 1 {
		panic(fmt.Sprintf("suite %d", suite))
	}
	return refVolume{suite: suite, layers: suite + 1, log2B: byte(bits.TrailingZeros32(blockSize)), id: id, epoch: epoch, v1: v1, v2: v2}
}
