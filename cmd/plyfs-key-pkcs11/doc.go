// Command plyfs-key-pkcs11 wraps and unwraps the secrets of customer-managed keys by a key in a hardware security module,
// or whatever else has a PKCS#11 module. It is a program of the protocol in keystore/PROVIDERS.md: one request on standard
// input, one answer on standard output. It is a module of its own because it needs cgo.
//
// The key is an AES key that stays in the token. A secret is encrypted by CKM_AES_GCM, with the cluster and the group as
// associated data: the mechanism is in SoftHSM 2 and in what most makers sell today, needs no permission to wrap or to
// make other keys, and tells bytes that were changed. What this makes of a secret is
//
//	version 1 | length of IV 1 | IV | ciphertext | tag 16
//
// and the IV is the one that the token used, since some choose their own. No key is made but by the create command.
package main
