// Package keystore keeps the keys above a volume and hands out the volume's own. FORMAT.md beside it is the normative
// description of every byte that it writes.
//
// # From a root to a volume
//
// Each layer has a key store of its own: one file, made apart from the other layer's, with a random root that shares
// nothing with the other root. A store is opened by a key file that its owner alone can read, or by a passphrase, and
// is sealed with its own layer's AEAD. From the root, one-way steps lead to the key of a cluster and on to that of a
// machine group:
//
//	data   R1 → cluster → group key G1, wraps V1      HKDF-Expand-SHA-256, AES-256-GCM
//	infra  R2 → cluster → group key G2, wraps V2      keyed BLAKE2b, XChaCha20-Poly1305
//
// A volume's keys V1 and V2 are random. They lie wrapped in plyfs.json in the root of the ciphertext directory, in a
// slot of each layer, so that whatever changes above them rewrites one small file. A slot may also need the secret
// that a [Provider] unwraps, a customer's key in a KMS or an HSM, or take a passphrase alone, for recovery.
//
// A fleet's store holds roots and can rotate, retire and destroy them. A host's store, which is a bundle that was
// exported from it, holds the keys of the host's group and nothing above.
//
// # Trust
//
// Stores and plyfs.json are taken as written by an adversary until their tags and MACs verify. Parsers check magic,
// version, lengths and limits first. An unkeyed checksum then tells accidental damage; it gives no security, only
// better messages. Key commitments are compared before anything is opened, since neither AEAD commits to its key, and
// they tell a wrong key from tampering. The volume's descriptor is bound into the keys of every slot and MACed by both
// layers, so that whoever knows everything of one layer still cannot change it.
//
// The caller says in an [Access] how many layers it expects: a config that was exchanged for one of a single layer is
// refused. A provider is known by a name alone, and asked only for groups whose keys the caller's stores hold. [Pins] are
// what a host remembers of volumes, so that an older state is no secret step back.
//
// # Use of the outside
//
// The package reads and writes key stores, key files, plyfs.json and a host's pins. It reads no environment, no terminal and no
// clock but to time out on a lock; passphrases come from a function that the caller gives. Files are replaced by
// writing a temporary file, syncing it, renaming it and syncing the directory. Neither stores nor key files are ever
// overwritten by new ones.
//
// # Secrets
//
// Keys are held by pointer in a type that prints as a placeholder, appear in no error, and are zeroed after use.
// What Go cannot promise: copies that the runtime made when a stack grew, registers, the expanded keys inside AEADs,
// HMAC and BLAKE2b states, and the working memory of Argon2id are left to the garbage collector.
package keystore
