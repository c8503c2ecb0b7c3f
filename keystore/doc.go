// Package keystore keeps the keys above a volume: the key stores of the two layers, the derivation of cluster and
// group keys, and plyfs.json, which holds a volume's own keys wrapped under them.
package keystore
