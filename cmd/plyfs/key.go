package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/keystore"
)

func keyCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "show, test and change what opens a volume",
		Subcommands: []*cli.Command{
			keyListCommand(con), keyAddCommand(con), keyRemoveCommand(con), keyRotateCommand(con), keyTestCommand(con),
		},
	}
}

func keyListCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:        "ls",
		Usage:       "list the key slots of a volume, without keys",
		UsageText:   "plyfs key ls [OPTION]... VOLUME",
		Description: "VOLUME is a ciphertext directory or the mountpoint of a live mount, for this and\nall other key commands. Nothing of the list is verified.",
		Flags:       []cli.Flag{jsonFlag(), configFlag()},
		Action: func(c *cli.Context) error {
			p, err := places(c, "VOLUME")
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
				return con.json(a.Layers)
			}
			for _, l := range a.Layers {
				con.print("%s layer, generation %d\n", l.Layer, l.Generation)
				var rows [][2]string
				for i, s := range l.Slots {
					rows = append(rows, [2]string{fmt.Sprint(i + 1), s.String()})
				}
				con.table("   ", rows)
			}
			return nil
		},
	}
}

func keyAddCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "add a key slot to a layer",
		UsageText: "plyfs key add --layer L {--provider P|--group G|--new-recovery R} VOLUME",
		Description: "A slot with a provider, a customer-managed key, takes the place of the group's\n" +
			"slots, and a group's slot takes a customer-managed key off again. A recovery\n" +
			"slot is opened by its passphrase alone, and only where it is named.",
		Flags: append(append([]cli.Flag{
			layerFlag(""),
			&cli.StringFlag{Name: "provider", Usage: "the customer-managed key of the key provider `NAME`"},
			&cli.StringFlag{Name: "cluster", Usage: "`NAME` of the cluster (default: that of the layer's first slot)"},
			&cli.StringFlag{Name: "group", Usage: "`NAME` of the machine group (with --provider, default: that of the first slot)"},
			&cli.StringFlag{Name: "new-recovery", Usage: "a recovery slot called `NAME`"},
		}, newPassphraseFlags()...), keyringFlags()...),
		Action: func(c *cli.Context) error {
			layer, err := oneLayer(c)
			if err != nil {
				return err
			}
			kinds := 0
			for _, name := range []string{"provider", "new-recovery"} {
				if c.IsSet(name) {
					kinds++
				}
			}
			if kinds == 0 && c.IsSet("group") {
				kinds++
			}
			if kinds != 1 {
				return usageError("--provider NAME, or --group NAME, or --new-recovery NAME", "what kind of slot")
			}
			return editKeys(con, c, func(k *keyEdit) error { return k.add(c, layer) })
		},
	}
}

// newPassphraseFlags say where a new recovery slot's passphrase comes from.
func newPassphraseFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "new-passphrase-file", Usage: "`FILE` with the new slot's passphrase; fd:N is an open descriptor (default: ask)"}}
}

func keyRemoveCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove a key slot, or erase the volume",
		UsageText: "plyfs key rm --layer LAYER --slot N [OPTION]... VOLUME",
		Description: "The last slot of a layer is removed with --destroy alone: nothing opens the\n" +
			"volume then. That erases it as far as no older copy of plyfs.json is left, in a\n" +
			"backup, a snapshot, on flash or a copying filesystem. It asks first.",
		Flags: append([]cli.Flag{
			layerFlag(""),
			&cli.IntFlag{Name: "slot", Usage: "number `N` of the slot, as key ls shows it"},
			&cli.BoolFlag{Name: "force", Usage: "also if only recovery slots are left then"},
			&cli.BoolFlag{Name: "destroy", Usage: "also if it is the last one: erase the volume"},
			yesFlag(),
		}, keyringFlags()...),
		Action: func(c *cli.Context) error {
			layer, err := oneLayer(c)
			if err != nil {
				return err
			}
			if !c.IsSet("slot") {
				return usageError("--slot N, as 'plyfs key ls' shows it", "--slot is missing")
			}
			v, err := volumeForKeys(con, c, true)
			if err != nil {
				return err
			}
			defer v.close()
			err = v.edit(con, c, func(k *keyEdit) error { return k.remove(con, c, layer) })
			if errors.Is(err, keystore.ErrRetired) && c.Bool("destroy") && v.erased(layer) {
				return v.finishErase(con, c, layer)
			}
			return err
		},
	}
}

func keyRotateCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "rotate",
		Usage:     "wrap a volume's keys anew, or move it to another group",
		UsageText: "plyfs key rotate [--layer LAYER] [--cluster C] [--group G] VOLUME",
		Description: "Slots of groups are wrapped under the newest epochs; with --cluster or --group,\n" +
			"under the keys of that group. Customer-managed keys wrap a new secret. The data\n" +
			"is not touched: whoever had the old keys and an old copy can read that copy.",
		Flags: append([]cli.Flag{
			layerFlag(" alone (default: both)"),
			&cli.StringFlag{Name: "cluster", Usage: "move it to the cluster `NAME`"},
			&cli.StringFlag{Name: "group", Usage: "move it to the machine group `NAME`"},
		}, keyringFlags()...),
		Action: func(c *cli.Context) error {
			layer, err := layerOf(c)
			if err != nil {
				return err
			}
			return editKeys(con, c, func(k *keyEdit) error { return k.rotate(c, layer) })
		},
	}
}

// slotTest is the answer of key test for one slot.
type slotTest struct {
	Layer string   `json:"layer"`
	Slot  int      `json:"slot"` // from 1
	What  infoSlot `json:"what"`
	// Result is ok, failed, or skipped: a recovery slot that was not named, or
	// one of a group where --recovery takes the place of the key store.
	Result string   `json:"result"`
	Error  string   `json:"error,omitempty"`
	Code   exitCode `json:"code,omitempty"`
}

func keyTestCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "test",
		Usage:     "try every key slot of a volume",
		UsageText: "plyfs key test [OPTION]... VOLUME",
		Description: "Key stores are opened and providers asked, as a mount would. Recovery slots are\n" +
			"tried if --recovery names them. It fails with the code of the first slot of\n" +
			"a layer that does not open, as a mount would.",
		Flags: append([]cli.Flag{jsonFlag()}, keyringFlags()...),
		Action: func(c *cli.Context) error {
			v, err := volumeForKeys(con, c, false)
			if err != nil {
				return err
			}
			defer v.close()
			return testKeys(con, c, v)
		},
	}
}

func testKeys(con *console, c *cli.Context, v *keyVolume) error {
	var failed [2]error // by layer, of the first slot that does not open
	all := []slotTest{}
	for _, l := range v.config.Layers() {
		for i, s := range v.config.Slots(l) {
			t := slotTest{Layer: l.String(), Slot: i + 1, What: infoSlotOf(s), Result: "ok"}
			var err error
			if isRecovery := s.Kind == keystore.KindRecovery; isRecovery && s.Name != v.keys.Recovery || !isRecovery && v.access.Lacks(l) {
				t.Result = "skipped"
			} else if err = v.config.TestSlot(c.Context, l, i, v.access); err != nil {
				t.Result, t.Error, t.Code = "failed", err.Error(), codeOf(err)
				if failed[l-1] == nil {
					failed[l-1] = fmt.Errorf("slot %d of the %s layer: %w", i+1, l, err)
				}
			}
			all = append(all, t)
		}
	}
	if c.Bool("json") {
		if err := con.json(all); err != nil {
			return err
		}
		return keystore.JoinLayers(failed[0], failed[1])
	}
	for _, t := range all {
		con.print("%s layer, slot %d: %s: %s\n", t.Layer, t.Slot, t.Result, t.What)
	}
	return keystore.JoinLayers(failed[0], failed[1])
}
