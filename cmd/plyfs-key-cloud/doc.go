// Command plyfs-key-cloud wraps and unwraps the secrets of customer-managed keys by the key services of clouds: AWS KMS,
// Azure Key Vault, Google Cloud KMS, and the transit engine of HashiCorp Vault or OpenBao. It is a program of the
// protocol in keystore/PROVIDERS.md: one request on standard input, one answer on standard output.
//
// It is a module of its own, so that the SDKs of the clouds are not part of plyfs. AWS, Google and Vault are asked
// through gocloud.dev/secrets. Azure is asked through its own SDK: there the permission meant for this is wrapKey and
// unwrapKey, which gocloud.dev does not use, and the version of the key has to be kept with what it wrapped.
//
// What a service answers is sorted with care, since a denial makes mounted volumes inaccessible at once: it is one only
// when the service itself said that this key or this host may not, or not any more. Everything else is unavailable.
package main
