package main

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version string

// versionInfo is the answer of `plyfs version`.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Format   int    `json:"format"`

	FIPS fipsInfo `json:"fips"`
}

func versionCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "version",
		Usage:     "print the version",
		UsageText: "plyfs version [--json]",
		Flags:     []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if _, err := places(c); err != nil {
				return err
			}
			return printVersion(con, c.Bool("json"))
		},
	}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "answer in JSON"}
}

func printVersion(con *console, asJSON bool) error {
	v := versionInfo{
		Version:  programVersion(),
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Format:   cipher.FormatVersion,
		FIPS:     fipsOf(),
	}
	if asJSON {
		return con.json(v)
	}
	con.print("plyfs %s (%s, %s), volume format %d\n", v.Version, v.Go, v.Platform, v.Format)
	con.print("FIPS: %s\n", v.FIPS.text())
	return nil
}

// programVersion is the stamped version, else the module's, else unknown.
func programVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
