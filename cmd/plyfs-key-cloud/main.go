package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// version is stamped by the build.
var version = "0.0.0-unknown"

const usage = `plyfs-key-cloud asks the key service of a cloud on behalf of plyfs, which runs it.
It reads one JSON request from standard input and takes no arguments; the services
and their settings are described in plyfs-providers(5).
`

func main() {
	program := protocol.Program{Name: "plyfs-key-cloud", Version: version, Usage: usage}
	os.Exit(program.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, open))
}

// services open each service with its own settings.
var services = map[string]protocol.Open{
	"aws-kms":         openAWS,
	"azure-key-vault": openAzure,
	"gcp-kms":         openGCP,
	"vault-transit":   openVault,
}

// open opens the service that the settings name.
func open(ctx context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
	var which struct {
		Service string `json:"service"`
	}
	if err := json.Unmarshal(raw, &which); err != nil {
		return nil, protocol.Usage("settings: %v", err)
	}
	openService, ok := services[which.Service]
	if !ok {
		return nil, protocol.Usage("settings: service %q is none of aws-kms, azure-key-vault, gcp-kms, vault-transit", protocol.Line(which.Service, 40))
	}
	return openService(ctx, raw, n)
}

// describe is the description of a service of this program.
func describe(service, key string) protocol.Description {
	return protocol.Description{Program: "plyfs-key-cloud " + version, Service: service, Key: key}
}

// required returns the error that a member is missing.
func required(members map[string]string) error {
	for name, value := range members {
		if value == "" {
			return protocol.Usage("settings: no %s", name)
		}
	}
	return nil
}

// contains tells whether a text has one of the words, in any case.
func contains(text string, words ...string) bool {
	text = strings.ToLower(text)
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
