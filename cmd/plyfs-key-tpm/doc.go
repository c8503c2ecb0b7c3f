// Command plyfs-key-tpm wraps and unwraps the secrets of customer-managed keys by the TPM 2.0 of the host: what it wraps
// opens on this machine alone and, if the provider's file names PCRs, only while they are as they were. It is a program of
// the protocol in keystore/PROVIDERS.md: one request on standard input, one answer on standard output.
//
// The secret is sealed under a storage root key, the TCG's ECC template, which is made anew each time in the owner
// hierarchy (whose authorization is empty, as systems leave it) and is the same until the TPM is cleared. Cluster and
// group are sealed with it. Sessions with the TPM are encrypted. What this makes of a secret is
//
//	version 1 | PCR selection 3 | length 2 | public area | length 2 | private area
//
// A TPM keeps a disk that was taken out of its machine closed. It is no key that somebody far away can disable.
package main
