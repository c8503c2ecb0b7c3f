package main

import (
	"context"
	"fmt"
	"os"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"golang.org/x/sys/unix"
)

// version is stamped by the build.
var version = "0.0.0-unknown"

const usage = `plyfs-key-tpm asks the TPM 2.0 of this host on behalf of plyfs, which runs it. It
reads one JSON request from standard input and takes no arguments; the settings are
described in plyfs-providers(5).
`

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "version", "--version":
			fmt.Println("plyfs-key-tpm", version)
		case "help", "--help", "-h":
			fmt.Print(usage)
		default:
			fmt.Fprint(os.Stderr, usage)
			os.Exit(2)
		}
		return
	}
	// No core file and no debugger of the same user sees the secret. Best effort.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if err := protocol.Serve(context.Background(), os.Stdin, os.Stdout, open); err != nil {
		fmt.Fprintln(os.Stderr, "plyfs-key-tpm: error:", err)
		os.Exit(1)
	}
}
