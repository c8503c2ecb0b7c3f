// Package cipher seals what a plyfs volume keeps on disk: blocks, tag blocks,
// file headers, names, symlink targets, extended attributes and directory IDs.
// It is pure: bytes in, bytes out. It opens no file, reads no clock, writes no
// log. FORMAT.md beside it is the normative description of every byte.
//
// # Two plies
//
// A double-layer volume (SuiteDouble) puts everything under two layers that
// share no algorithm, no code and no key. Layer 1, "data", is AES-256-GCM with
// HMAC-SHA-256 and HKDF from Go's FIPS module. Layer 2, "infrastructure", is
// XChaCha20-Poly1305 with keyed BLAKE2b from x/crypto. Each keeps what it
// covers confidential and untampered by itself, so a broken algorithm, a
// faulty implementation or a leaked key of one layer leaves the other. Two
// layers are a robust combiner, not a longer key. A single-layer volume
// (SuiteSingle) has layer 1 alone; the places of layer 2 are zero.
//
// # The objects
//
// A [Volume] holds the two volume keys and seals what belongs to no file:
// names, blobs, directory IDs. It makes a [File] for each file that is open,
// which holds that file's own keys, derived from a random salt and ID in the
// file's static header. A File seals and opens blocks, tag block trailers and
// the header. A [Layout] is the arithmetic of where they lie.
//
// All methods are safe for concurrent use unless they say otherwise. Sealing
// and opening a block allocates nothing.
//
// # Trust
//
// Whatever comes from disk is taken as written by an adversary until its MACs
// or tags were verified. Parsers check magic, version, lengths and at last the
// MACs of both layers, and never panic on what a disk holds. They do panic, as
// Go's own crypto packages do, when a caller passes buffers of wrong lengths or
// values that the format cannot express.
package cipher
