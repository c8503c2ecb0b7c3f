// Package protocol is what plyfs and a program that holds a customer's keys say to each other: one JSON request on the
// program's standard input, one JSON answer on its standard output. keystore/PROVIDERS.md beside package keystore is the
// normative text. plyfs's side is package provider; a program in Go gives Serve a function that opens its key service.
//
// The package reads no environment and does not exit; what it is given to wrap or unwrap it wipes when it is answered.
package protocol
