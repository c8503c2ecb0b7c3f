package main

import (
	"os"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// version is stamped by the build.
var version = "0.0.0-unknown"

const usage = `plyfs-key-tpm asks the TPM 2.0 of this host on behalf of plyfs, which runs it. It
reads one JSON request from standard input and takes no arguments; the settings are
described in plyfs-providers(5).
`

func main() {
	program := protocol.Program{Name: "plyfs-key-tpm", Version: version, Usage: usage}
	os.Exit(program.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, open))
}
