package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
	"github.com/plyfs/plyfs/keystore"
)

// A change of a volume's slots is made here, by the command, which needs what
// opens the volume, and rendered as a whole new config. Where the volume is
// mounted here, the daemon gets that config over its socket and puts it in
// place; else the command does, under the volume's lock. Either way the config's
// own lock and generation decide which of two changes comes first, so that
// nothing is lost between reading and writing.

// keyVolume is a volume with what opens it.
type keyVolume struct {
	ref    *volumeRef
	keys   keyring
	config *keystore.Config
	access keystore.Access
	pins   *pinned
}

// volumeForKeys opens the stores for the volume that a key command was given, to
// write its config if writes is true. The number of layers is the config's own: a
// mount states it, and nothing that is written here makes it take another.
func volumeForKeys(con *console, c *cli.Context, writes bool) (*keyVolume, error) {
	p, err := places(c, "VOLUME")
	if err != nil {
		return nil, err
	}
	harden()
	var o mountopt.Options
	keyringFlagsOverOptions(c, &o)
	v := &keyVolume{}
	if v.ref, err = findVolume(con, p[0], o.Config); err != nil {
		return nil, err
	}
	if writes {
		if err := v.ref.checkLive(); err != nil {
			return nil, err
		}
	}
	if v.keys, err = keyringOf(con, v.ref.Source, &o); err != nil {
		return nil, err
	}
	v.keys.Config = v.ref.Config
	if v.config, err = readConfig(v.ref.Config); err != nil {
		return nil, err
	}
	if err := v.keys.checkRecovery(v.config); err != nil {
		return nil, err
	}
	v.pins = &pinned{pins: keystore.Pins{Path: pinsPath(con)}, id: v.config.Params().VolumeID, config: v.ref.Config, warn: func(text string) { con.warn("%s", text) }}
	if v.access, err = v.keys.access(con, v.config, len(v.config.Layers())); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *keyVolume) close() { wipeStores(v.access.Data, v.access.Infra) }

// keyEdit is a change of a volume's slots.
type keyEdit struct {
	con    *console
	v      *keyVolume
	editor *keystore.Editor
	said   []string // what was done
	erase  bool     // the volume
}

// editKeys changes the slots of the volume that a command was given.
func editKeys(con *console, c *cli.Context, change func(*keyEdit) error) error {
	v, err := volumeForKeys(con, c, true)
	if err != nil {
		return err
	}
	defer v.close()
	return v.edit(con, c, change)
}

// edit changes the volume's slots.
func (v *keyVolume) edit(con *console, c *cli.Context, change func(*keyEdit) error) (err error) {
	k := &keyEdit{con: con, v: v}
	if k.editor, err = v.config.Edit(c.Context, v.access); err != nil {
		return err
	}
	defer k.editor.Wipe()
	for _, w := range v.config.Warnings() {
		con.warn("%s", w)
	}
	if err := v.pins.check(v.config.Generations(), false); err != nil {
		return err
	}
	if err := change(k); err != nil {
		return err
	}
	b, err := k.editor.Bytes()
	if err != nil {
		return err
	}
	if err := v.write(con, b, k.erase); err != nil {
		return err
	}
	for _, s := range k.said {
		con.note("%s", s)
	}
	return nil
}

// configArgs are those of the request "config".
type configArgs struct {
	Config []byte `json:"config"`
	Erase  bool   `json:"erase"`
}

// configTime is how long a command waits for a daemon that puts a config in place.
const configTime = pinTime + 5*time.Second

// writeConfig is the daemon's answer to "config". Its helper writes.
func (m *mounting) writeConfig(_ context.Context, args json.RawMessage) (any, error) {
	var a configArgs
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, err
	}
	warn := func(text string) { m.log.Warn(text, "source", m.r.Source) }
	if err := m.helper.remember(keyQuestion{Op: "config", Config: a.Config, Erase: a.Erase}, warn); err != nil {
		m.audit.event(auditEvent{Event: "slots", Result: auditFailed, Reason: err.Error()})
		return nil, err
	}
	m.audit.event(auditEvent{Event: "slots", Result: auditOK})
	m.log.Info("the volume's key slots were changed", "source", m.r.Source)
	return struct{}{}, nil
}

// write puts a new config in place.
func (v *keyVolume) write(con *console, b []byte, erase bool) error {
	if v.ref.live != nil {
		err := askDaemon(stateDir(con), v.ref.live.Target, "config", configArgs{Config: b, Erase: erase}, nil, configTime)
		if errors.Is(err, errNoDaemon) {
			err = &problem{err: fmt.Errorf("%s: %w", v.ref.live.Target, err), code: exitBusy, hint: "see 'plyfs status'; or unmount the volume first"}
		}
		return err
	}
	root, err := backing.OpenDir(v.ref.Source)
	if err != nil {
		return fmt.Errorf("ciphertext directory: %w", err)
	}
	defer root.Close()
	lock, err := volume.Lock(root, lockStep)
	if errors.Is(err, volume.ErrBusy) {
		return &problem{err: fmt.Errorf("%s: %w", v.ref.Source, err), code: exitBusy,
			hint: "it is mounted where its daemon cannot be asked from here: change the keys there, or unmount it"}
	}
	if err != nil {
		return volumeError(err)
	}
	defer lock.Close()
	return v.pins.writeConfig(b, erase)
}

// erased reports whether the newest config leaves a layer that the volume has
// without a slot.
func (v *keyVolume) erased(l cipher.Layer) bool {
	return slices.Contains(v.config.Layers(), l) && len(v.config.Slots(l)) == 0
}

// finishErase erases a volume again that is erased, in case that was interrupted:
// both copies of its config are to be the last one, and nothing else is to be left.
func (v *keyVolume) finishErase(con *console, c *cli.Context, l cipher.Layer) error {
	if err := con.confirm(c, "what may be left of the last key of the %s layer of the volume %s, which is erased already", l, v.ref.Source); err != nil {
		return err
	}
	if err := v.write(con, v.config.Bytes(), true); err != nil {
		return err
	}
	con.note("erased the volume: it was already, and what an interruption may have left of its config was overwritten")
	return nil
}

// names returns the group that flags name, each of the two by default that of
// the layer's first slot of a group.
func (k *keyEdit) names(c *cli.Context, l cipher.Layer) (keystore.Names, error) {
	n := namesOf(c)
	for _, s := range k.editor.Slots(l) {
		if s.Kind == keystore.KindRecovery {
			continue
		}
		if n.Cluster == "" {
			n.Cluster = s.Names.Cluster
		}
		if n.Group == "" {
			n.Group = s.Names.Group
		}
	}
	if n.Cluster == "" || n.Group == "" {
		return n, usageError("--cluster NAME and --group NAME", "the %s layer has no slot of a group that would tell which", l)
	}
	return n, nil
}

func (k *keyEdit) say(format string, args ...any) {
	k.said = append(k.said, fmt.Sprintf(format, args...))
}

// add adds the slot that the flags describe.
func (k *keyEdit) add(c *cli.Context, l cipher.Layer) error {
	if name := c.String("new-recovery"); c.IsSet("new-recovery") {
		pass, err := k.con.readSecret(subject{of: fmt.Sprintf("%s layer's recovery slot %s", l, name), flag: "new-passphrase-file"}, c.String("new-passphrase-file"), true)
		defer clear(pass)
		if err != nil {
			return err
		}
		k.say("added recovery slot %s to the %s layer: keep its passphrase where no host is", name, l)
		return k.editor.AddRecovery(l, name, pass, keystore.Argon2{})
	}
	n, err := k.names(c, l)
	if err != nil {
		return err
	}
	before := k.editor.Slots(l)
	if provider := c.String("provider"); c.IsSet("provider") {
		if err := k.editor.AddProvider(c.Context, l, n, provider); err != nil {
			return err
		}
		k.say("the %s layer of the volume opens for group %s with the customer-managed key of provider %s", l, n, provider)
	} else {
		if err := k.editor.AddGroup(l, n); err != nil {
			return err
		}
		k.say("the %s layer of the volume opens for group %s", l, n)
	}
	k.tellReplaced(l, before)
	return nil
}

// tellReplaced says which slots made place for a new one, and warns of those that go around a provider.
func (k *keyEdit) tellReplaced(l cipher.Layer, before []keystore.SlotInfo) {
	after := k.editor.Slots(l)
	for _, s := range before {
		if !slices.Contains(after, s) {
			k.say("in the place of: %s", infoSlotOf(s))
		}
	}
	for _, s := range after {
		if s.Kind == keystore.KindRecovery && slices.ContainsFunc(after, func(o keystore.SlotInfo) bool { return o.Kind == keystore.KindProvider }) {
			k.say("recovery slot %s opens the %s layer without the customer-managed key", s.Name, l)
		}
	}
}

// remove removes the slot that the flags name, or erases the volume.
func (k *keyEdit) remove(con *console, c *cli.Context, l cipher.Layer) error {
	slots, i := k.editor.Slots(l), c.Int("slot")-1
	if len(slots) == 1 && i == 0 && c.Bool("destroy") {
		if err := con.confirm(c, "the last key of the %s layer: nobody will ever read the volume %s again", l, k.v.ref.Source); err != nil {
			return err
		}
		k.erase = true
		k.say("erased the volume: no key of the %s layer is left in its config, and the old one was overwritten", l)
		k.say("an older copy of the config still opens it: backups, snapshots, and what flash or a copying filesystem keeps of old blocks")
		if k.v.ref.live != nil {
			k.say("it is mounted, and stays readable until it is unmounted or its keys are validated again")
		}
		return k.editor.Erase(l)
	}
	if err := k.editor.Remove(l, i, c.Bool("force")); err != nil {
		return err
	}
	k.say("removed from the %s layer: %s", l, infoSlotOf(slots[i]))
	k.say("who had that key, and a copy of the old config, can still read copies; only new keys for the data would change that")
	return nil
}

// rotate wraps anew, or moves.
func (k *keyEdit) rotate(c *cli.Context, only cipher.Layer) error {
	for _, l := range k.v.config.Layers() {
		if only != 0 && l != only {
			continue
		}
		var to *keystore.Names
		if c.IsSet("cluster") || c.IsSet("group") {
			n, err := k.names(c, l)
			if err != nil {
				return err
			}
			to = &n
		}
		if err := k.editor.Rewrap(c.Context, l, to); err != nil {
			return err
		}
		for _, s := range k.editor.Slots(l) {
			if s.Kind != keystore.KindRecovery {
				k.say("the %s layer opens by %s", l, infoSlotOf(s))
			}
		}
	}
	return nil
}
