package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// tpm is an opened TPM with its storage root key.
type tpm struct {
	transport.TPMCloser
	srk    tpm2.AuthHandle
	public tpm2.TPMTPublic
}

const nonceSize = 16

func openTPM(device string) (*tpm, error) {
	st, err := os.Stat(device)
	if err != nil {
		return nil, err
	}
	openDevice := linuxtpm.Open
	if st.Mode()&os.ModeSocket != 0 {
		openDevice = linuxudstpm.Open
	}
	c, err := openDevice(device)
	if err != nil {
		return nil, fmt.Errorf("open the TPM: %w", err)
	}
	t := &tpm{TPMCloser: c}
	srk, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if err != nil {
		c.Close()
		if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
			return nil, protocol.Usage("the owner hierarchy of the TPM has an authorization, which this program does not know")
		}
		return nil, fmt.Errorf("storage root key: %w", err)
	}
	t.srk = tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)}
	public, err := srk.OutPublic.Contents()
	if err != nil {
		t.close()
		return nil, fmt.Errorf("storage root key: %w", err)
	}
	t.public = *public
	return t, nil
}

func (t *tpm) close() {
	t.flush(t.srk.Handle)
	t.Close()
}

func (t *tpm) flush(h tpm2.TPMHandle) { tpm2.FlushContext{FlushHandle: h}.Execute(t) }

// The options of sessions in which nobody on the bus reads the secret: on its way to the TPM, and back.
func (t *tpm) encryptIn() []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.AESEncryption(128, tpm2.EncryptIn), tpm2.Salted(t.srk.Handle, t.public)}
}

func (t *tpm) encryptOut() []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(t.srk.Handle, t.public)}
}

// pcrs is a selection of the SHA-256 bank, and whether it selects any.
func pcrs(selection []byte) (tpm2.TPMLPCRSelection, bool) {
	any := false
	for _, b := range selection {
		any = any || b != 0
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: selection}}}, any
}

// seal returns an object that holds data, bound to the selected PCRs as they are now.
func (t *tpm) seal(data, selection []byte) (public, private []byte, err error) {
	object := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true, UserWithAuth: true},
	}
	if selected, any := pcrs(selection); any {
		trial, end, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, nonceSize, tpm2.Trial())
		if err != nil {
			return nil, nil, fmt.Errorf("policy: %w", err)
		}
		defer end()
		if _, err := (tpm2.PolicyPCR{PolicySession: trial.Handle(), Pcrs: selected}).Execute(t); err != nil {
			return nil, nil, fmt.Errorf("policy of the PCRs: %w", err)
		}
		digest, err := tpm2.PolicyGetDigest{PolicySession: trial.Handle()}.Execute(t)
		if err != nil {
			return nil, nil, fmt.Errorf("policy: %w", err)
		}
		object.ObjectAttributes.UserWithAuth = false
		object.AuthPolicy = digest.PolicyDigest
	}
	parent := t.srk
	parent.Auth = tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, t.encryptIn()...)
	made, err := tpm2.Create{
		ParentHandle: parent,
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: data})}},
		InPublic:     tpm2.New2B(object),
	}.Execute(t)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return made.OutPublic.Bytes(), made.OutPrivate.Buffer, nil
}

// unseal undoes seal. That the PCRs are others now is a denial: the machine does not run what it ran.
func (t *tpm) unseal(public, private, selection []byte) ([]byte, error) {
	object, err := tpm2.Load{
		ParentHandle: t.srk, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](public), InPrivate: tpm2.TPM2BPrivate{Buffer: private},
	}.Execute(t)
	if err != nil {
		var code tpm2.TPMRC
		if errors.As(err, &code) && !code.IsWarning() {
			return nil, protocol.Invalid("this TPM did not seal these bytes, or was cleared since: %v", err)
		}
		return nil, fmt.Errorf("load: %w", err)
	}
	defer t.flush(object.ObjectHandle)

	handle := tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name}
	if selected, any := pcrs(selection); any {
		session, end, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, nonceSize, t.encryptOut()...)
		if err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		defer end()
		if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selected}).Execute(t); err != nil {
			return nil, fmt.Errorf("policy of the PCRs: %w", err)
		}
		handle.Auth = session
	} else {
		handle.Auth = tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, t.encryptOut()...)
	}
	opened, err := tpm2.Unseal{ItemHandle: handle}.Execute(t)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, protocol.Denied("the PCRs of the TPM are not what they were when the key was put on: %v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return opened.OutData.Buffer, nil
}
