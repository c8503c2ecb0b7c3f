package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// token is a token with a session of a user who is logged in.
type token struct {
	*settings
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
}

// openToken loads the module, finds the token and logs in. A write session can make keys.
func openToken(s *settings, write bool) (*token, error) {
	if err := s.checkModule(); err != nil {
		return nil, err
	}
	t := &token{settings: s, ctx: pkcs11.New(s.Module)}
	if t.ctx == nil {
		return nil, fmt.Errorf("module %s cannot be loaded", s.Module)
	}
	if err := t.ctx.Initialize(); err != nil {
		t.ctx.Destroy()
		return nil, sort("start the module", err)
	}
	if err := t.login(write); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *token) close() {
	if t.session != 0 {
		t.ctx.Logout(t.session)
		t.ctx.CloseSession(t.session)
	}
	t.ctx.Finalize()
	t.ctx.Destroy()
}

func (t *token) login(write bool) error {
	slot, info, err := t.findSlot()
	if err != nil {
		return err
	}
	// The last try of a PIN is for a person: what asks every few minutes would lock the token for good.
	if info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return protocol.Denied("the user's PIN of token %s is locked", t.Token)
	}
	if info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 {
		return protocol.Denied("token %s has one try of the user's PIN left, which is not used: log in by hand", t.Token)
	}
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if write {
		flags |= pkcs11.CKF_RW_SESSION
	}
	if t.session, err = t.ctx.OpenSession(slot, flags); err != nil {
		return sort("open a session of token "+t.Token, err)
	}
	pin, err := t.pin()
	if err != nil {
		return err
	}
	defer clear(pin)
	err = t.ctx.Login(t.session, pkcs11.CKU_USER, string(pin))
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return sort("log in to token "+t.Token, err)
	}
	return nil
}

// findSlot finds the slot with the token of the label.
func (t *token) findSlot() (uint, pkcs11.TokenInfo, error) {
	var none pkcs11.TokenInfo
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return 0, none, sort("list slots", err)
	}
	var slot uint
	var found []pkcs11.TokenInfo
	for _, s := range slots {
		info, err := t.ctx.GetTokenInfo(s)
		if err == nil && info.Label == t.Token {
			slot, found = s, append(found, info)
		}
	}
	switch len(found) {
	case 0:
		return 0, none, fmt.Errorf("no slot has a token %s", t.Token)
	case 1:
		return slot, found[0], nil
	}
	return 0, none, protocol.Usage("%d tokens have the label %s", len(found), t.Token)
}

// findKey finds the AES key of the label. That it is not there is a denial: whoever removes it takes it away.
func (t *token) findKey() (pkcs11.ObjectHandle, error) {
	keys, err := t.keys()
	if err != nil {
		return 0, err
	}
	switch len(keys) {
	case 0:
		return 0, protocol.Denied("token %s has no AES key %s", t.Token, t.Key)
	case 1:
		return keys[0], nil
	}
	return 0, protocol.Usage("token %s has more than one AES key %s", t.Token, t.Key)
}

func (t *token) keys() ([]pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.Key),
	}
	if err := t.ctx.FindObjectsInit(t.session, template); err != nil {
		return nil, sort("look for key "+t.Key, err)
	}
	keys, _, err := t.ctx.FindObjects(t.session, 2)
	if ended := t.ctx.FindObjectsFinal(t.session); err == nil {
		err = ended
	}
	if err != nil {
		return nil, sort("look for key "+t.Key, err)
	}
	return keys, nil
}

// createKey makes an AES-256 key that never leaves the token and does nothing but encrypt and decrypt.
func (t *token) createKey() error {
	keys, err := t.keys()
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		return protocol.Usage("token %s has an AES key %s already", t.Token, t.Key)
	}
	_, err = t.ctx.GenerateKey(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.Key),
		pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(t.Key)),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	})
	if err != nil {
		return sort("make key "+t.Key, err)
	}
	return nil
}

// Lengths of AES-GCM here.
const (
	ivSize  = 12
	maxIV   = 64 // of a token that makes its own
	tagBits = 128
)

// encrypt returns the IV that the token used, and ciphertext and tag.
func (t *token) encrypt(key pkcs11.ObjectHandle, aad, plain []byte) (iv, sealed []byte, err error) {
	iv = make([]byte, ivSize)
	if _, err := rand.Read(iv); err != nil {
		return nil, nil, err
	}
	params := pkcs11.NewGCMParams(iv, aad, tagBits)
	defer params.Free()
	if err := t.ctx.EncryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, nil, sort("encrypt by key "+t.Key, err)
	}
	if sealed, err = t.ctx.Encrypt(t.session, plain); err != nil {
		return nil, nil, sort("encrypt by key "+t.Key, err)
	}
	if used := params.IV(); len(used) > 0 {
		iv = used
	}
	if len(iv) > maxIV || len(sealed) != len(plain)+tagBits/8 {
		return nil, nil, fmt.Errorf("token %s made %d bytes and an IV of %d of a secret of %d", t.Token, len(sealed), len(iv), len(plain))
	}
	return iv, sealed, nil
}

// decrypt undoes encrypt.
func (t *token) decrypt(key pkcs11.ObjectHandle, iv, aad, sealed []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, aad, tagBits)
	defer params.Free()
	if err := t.ctx.DecryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, sort("decrypt by key "+t.Key, err)
	}
	plain, err := t.ctx.Decrypt(t.session, sealed)
	if err != nil {
		return nil, sort("decrypt by key "+t.Key, err)
	}
	return plain, nil
}

// What tokens answer. A PIN that is wrong and a key that may not, or is past its time, are a denial. Of bytes that are
// not the key's own each maker says something else; unwrap finds out.
var (
	denials = []uint{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED,
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_ACTION_PROHIBITED}
	invalids = []uint{pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE}
	usages   = []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_SIZE_RANGE}
)

// sort says of an error of the module which kind of failure it is.
func sort(what string, err error) error {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case slices.Contains(denials, uint(code)):
		return protocol.Denied("%s: %v", what, err)
	case slices.Contains(invalids, uint(code)):
		return protocol.Invalid("%s: %v", what, err)
	case slices.Contains(usages, uint(code)):
		return protocol.Usage("%s: %v", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
