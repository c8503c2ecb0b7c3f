package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// version is stamped by the build.
var version = "0.0.0-unknown"

const usage = `plyfs-key-pkcs11 asks a PKCS#11 token on behalf of plyfs, which runs it. Without
arguments it reads one JSON request from standard input; the settings are described
in plyfs-providers(5).

  plyfs-key-pkcs11 create --provider FILE --cluster NAME --group NAME
        make the AES key that a provider's file names for a cluster and group

  plyfs-key-pkcs11 version
`

func main() {
	protocol.Harden() // the PIN is seen no more than the secret
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	var err error
	switch {
	case len(args) == 0:
		err = protocol.Serve(context.Background(), os.Stdin, os.Stdout, open)
	case args[0] == "create":
		err = create(args[1:])
	case args[0] == "version" || args[0] == "--version":
		fmt.Println("plyfs-key-pkcs11", version)
	case args[0] == "help" || args[0] == "--help" || args[0] == "-h":
		fmt.Print(usage)
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plyfs-key-pkcs11: error:", err)
		return 1
	}
	return 0
}

// create makes the key that a provider's file names.
func create(args []string) error {
	flags := flag.NewFlagSet("create", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	file := flags.String("provider", "", "")
	var n protocol.Names
	flags.StringVar(&n.Cluster, "cluster", "", "")
	flags.StringVar(&n.Group, "group", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *file == "" || flags.NArg() > 0 {
		return fmt.Errorf("create takes --provider FILE, --cluster and --group")
	}
	if err := n.Validate(); err != nil {
		return err
	}
	f, err := os.Open(*file)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, protocol.MaxMessage))
	if err != nil {
		return err
	}
	var provider struct {
		Program  string          `json:"program"`
		Settings json.RawMessage `json:"settings"`
	}
	if err := json.Unmarshal(raw, &provider); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	if provider.Program != "pkcs11" {
		return fmt.Errorf("%s: its program is %q, not pkcs11", *file, provider.Program)
	}
	s, err := parseSettings(provider.Settings, n)
	if err != nil {
		return err
	}
	t, err := openToken(s, true)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.createKey(); err != nil {
		return err
	}
	fmt.Printf("made key %s in token %s\n", s.Key, s.Token)
	return nil
}
