package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

// infoAnswer is what a volume's config says without any key.
type infoAnswer struct {
	CipherDir string      `json:"cipherdir"`
	VolumeID  string      `json:"volume_id"`
	Format    int         `json:"format"`
	Suite     int         `json:"suite"`
	SuiteName string      `json:"suite_name"`
	BlockSize int         `json:"block_size"`
	Layers    []infoLayer `json:"layers"`
	MountedAt []string    `json:"mounted_at"`
	Warnings  []string    `json:"warnings"`
	Verified  bool        `json:"verified"` // always false: it takes the keys
	FIPS      fipsInfo    `json:"fips"`     // of this program, not of the volume
}

type infoLayer struct {
	Layer      string     `json:"layer"`
	Cipher     string     `json:"cipher"`
	Generation uint64     `json:"generation"`
	Slots      []infoSlot `json:"slots"`
}

type infoSlot struct {
	Kind         string `json:"kind"`
	Cluster      string `json:"cluster,omitempty"` // not of a recovery slot, nor the next four
	Group        string `json:"group,omitempty"`
	RootEpoch    uint32 `json:"root_epoch,omitempty"`
	ClusterEpoch uint32 `json:"cluster_epoch,omitempty"`
	GroupEpoch   uint32 `json:"group_epoch,omitempty"`
	VolumeEpoch  uint32 `json:"volume_epoch"`
	Provider     string `json:"provider,omitempty"` // of a customer-managed key
	Name         string `json:"name,omitempty"`     // of a recovery slot
}

func infoSlotOf(s keystore.SlotInfo) infoSlot {
	return infoSlot{
		Kind: s.Kind, Cluster: s.Names.Cluster, Group: s.Names.Group,
		RootEpoch: s.Epochs.Root, ClusterEpoch: s.Epochs.Cluster, GroupEpoch: s.Epochs.Group,
		VolumeEpoch: s.VolumeEpoch, Provider: s.Provider, Name: s.Name,
	}
}

func (s infoSlot) String() string {
	if s.Kind == keystore.KindRecovery {
		return fmt.Sprintf("recovery slot %s: passphrase (volume key %d)", s.Name, s.VolumeEpoch)
	}
	text := fmt.Sprintf("%s: cluster %s, group %s (epochs %d/%d/%d, volume key %d)",
		s.Kind, s.Cluster, s.Group, s.RootEpoch, s.ClusterEpoch, s.GroupEpoch, s.VolumeEpoch)
	if s.Provider != "" {
		text += ", provider " + s.Provider
	}
	return text
}

func infoCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show what a volume is, without keys",
		UsageText: "plyfs info [--json] CIPHERDIR",
		Description: "Nothing of it is verified: that takes the keys, and mount does it. For a live\n" +
			"mount, the mountpoint names the volume as well.",
		Flags: []cli.Flag{jsonFlag(), configFlag()},
		Action: func(c *cli.Context) error {
			p, err := places(c, "CIPHERDIR")
			if err != nil {
				return err
			}
			a, err := volumeInfo(con, p[0], c.String("config"))
			if err != nil {
				return err
			}
			for _, w := range a.Warnings {
				con.warn("%s", w)
			}
			if c.Bool("json") {
				return con.json(a)
			}
			a.print(con)
			return nil
		},
	}
}

// volumeInfo reads the config of a ciphertext directory, or of the one that
// is mounted at path.
func volumeInfo(con *console, path, named string) (*infoAnswer, error) {
	v, err := findVolume(con, path, named)
	if err != nil {
		return nil, err
	}
	config, err := readConfig(v.Config)
	if err != nil {
		return nil, err
	}
	p := config.Params()
	a := &infoAnswer{
		CipherDir: v.Source,
		VolumeID:  p.VolumeID.String(),
		Format:    int(p.Format),
		Suite:     int(p.Suite),
		SuiteName: p.Suite.String(),
		BlockSize: int(p.BlockSize),
		Warnings:  append([]string{}, config.Warnings()...),
		MountedAt: append([]string{}, v.Targets...),
		FIPS:      fipsOf(),
	}
	for _, l := range config.Layers() {
		a.Layers = append(a.Layers, layerInfo(config, l))
	}
	return a, nil
}

func layerInfo(config *keystore.Config, l cipher.Layer) infoLayer {
	i := infoLayer{Layer: l.String(), Cipher: cipherOf(l), Generation: config.Generation(l), Slots: []infoSlot{}}
	for _, s := range config.Slots(l) {
		i.Slots = append(i.Slots, infoSlotOf(s))
	}
	return i
}

// cipherOf names the algorithm that a layer seals blocks with in suites 0 and
// 1 (FORMAT.md §2).
func cipherOf(l cipher.Layer) string {
	if l == cipher.LayerData {
		return "AES-256-GCM"
	}
	return "XChaCha20-Poly1305"
}

func sameDir(a, b string) bool {
	if a == b {
		return true
	}
	sa, err := os.Stat(a)
	if err != nil {
		return false
	}
	sb, err := os.Stat(b)
	return err == nil && os.SameFile(sa, sb)
}

func (a *infoAnswer) print(con *console) {
	rows := [][2]string{
		{"volume", a.VolumeID},
		{"ciphertext", a.CipherDir},
		{"format", fmt.Sprintf("%d, suite %d (%s)", a.Format, a.Suite, a.SuiteName)},
		{"block size", fmt.Sprintf("%d bytes", a.BlockSize)},
		{"layers", layersText(len(a.Layers))},
	}
	for i, l := range a.Layers {
		rows = append(rows, [2]string{fmt.Sprintf("layer %d", i+1), fmt.Sprintf("%s, %s; keys of generation %d", l.Layer, l.Cipher, l.Generation)})
		for _, s := range l.Slots {
			rows = append(rows, [2]string{"", "opened by " + s.String()})
		}
		if len(l.Slots) == 0 {
			rows = append(rows, [2]string{"", "opened by nothing any more: it was erased"})
		}
	}
	where := "nowhere that can be seen from here"
	for i, t := range a.MountedAt {
		if where = t; i > 0 {
			where += ", " + t
		}
	}
	rows = append(rows, [2]string{"mounted at", where}, [2]string{"verified", "no: that takes the keys, and mount does it"},
		[2]string{"FIPS", a.FIPS.text()})
	con.table("", rows)
}
