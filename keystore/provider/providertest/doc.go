// Package providertest shows whether a program keeps the protocol of keystore/PROVIDERS.md: Conformance runs it as plyfs
// does. Its other half is servers for the tests of providers: Moto plays AWS KMS.
package providertest
