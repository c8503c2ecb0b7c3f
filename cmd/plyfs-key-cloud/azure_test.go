package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// fakeAzure answers as a key vault does, with versions of keys; it "wraps" by reversing.
type fakeAzure struct {
	*httptest.Server
	version atomic.Value // newest version of every key
	fail    atomic.Pointer[azureFailure]
}

type azureFailure struct {
	status int
	code   string
}

type azureToken struct{ err error }

func (a azureToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token", ExpiresOn: time.Now().Add(time.Hour)}, a.err
}

func newAzure(t *testing.T) *fakeAzure {
	a := &fakeAzure{}
	a.version.Store("aaaa")
	a.Server = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	return a
}

func (a *fakeAzure) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`)
		w.WriteHeader(401)
		return
	}
	say := func(status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error": {"code": %q, "message": "no"}}`, code)
	}
	if f := a.fail.Load(); f != nil {
		say(f.status, f.code)
		return
	}
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // keys/NAME[/VERSION]/OPERATION
	name, operation, version := part[1], part[len(part)-1], a.version.Load().(string)
	if len(part) == 4 && part[2] != "" {
		version = part[2]
	}
	var in struct{ Value string }
	json.NewDecoder(r.Body).Decode(&in)
	value, _ := base64.RawURLEncoding.DecodeString(in.Value)
	mark := name + "/" + version + "/"
	if operation == "wrapkey" {
		value = append([]byte(mark), reverse(string(value))...)
	} else {
		rest, mine := strings.CutPrefix(string(value), mark)
		if !mine {
			say(400, "BadParameter")
			return
		}
		value = []byte(reverse(rest))
	}
	json.NewEncoder(w).Encode(map[string]string{"kid": a.URL + "/keys/" + name + "/" + version, "value": base64.RawURLEncoding.EncodeToString(value)})
}

func (a *fakeAzure) call(token azureToken) call {
	c := with(fmt.Sprintf(`{"service": "azure-key-vault", "vault": %q, "key": "plyfs-{cluster}-{group}"}`, a.URL))
	c.open = func(_ context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
		return openAzureWith(raw, n, token, azkeys.ClientOptions{
			ClientOptions:                        azcore.ClientOptions{Transport: a.Client()},
			DisableChallengeResourceVerification: true, // the fake server is not below vault.azure.net
		})
	}
	return c
}

func TestAzureWrapsAndUnwraps(t *testing.T) {
	a := newAzure(t)
	c := a.call(azureToken{})
	wrapped := c.wrap(t)
	if bytes.Contains(wrapped, secret) {
		t.Error("not wrapped")
	}
	c.unwraps(t, wrapped)

	// A new version of the key leaves what the old one wrapped as it is.
	a.version.Store("bbbb")
	c.unwraps(t, wrapped)
	c.unwraps(t, c.wrap(t))

	other := c
	other.names.Group = "web"
	other.refuses(t, wrapped, protocol.KindInvalid, "status 400")
	for _, bad := range []string{"x", "\n", "../../secrets\nx", strings.Repeat("a", 65) + "\nx"} {
		c.refuses(t, []byte(bad), protocol.KindInvalid, "version")
	}
}

func TestAzureErrors(t *testing.T) {
	a := newAzure(t)
	c := a.call(azureToken{})
	wrapped := c.wrap(t)
	for _, test := range []struct {
		failure azureFailure
		want    string
	}{
		{azureFailure{403, "Forbidden"}, protocol.KindDenied},
		{azureFailure{403, ""}, protocol.KindUnavailable},
		{azureFailure{404, "KeyNotFound"}, protocol.KindDenied},
		{azureFailure{409, "ObjectIsDeletedButRecoverable"}, protocol.KindDenied},
		{azureFailure{400, "BadParameter"}, protocol.KindInvalid},
		{azureFailure{429, "Throttled"}, protocol.KindUnavailable},
		{azureFailure{500, "InternalServerError"}, protocol.KindUnavailable},
		{azureFailure{503, "ServiceUnavailable"}, protocol.KindUnavailable},
	} {
		a.fail.Store(&test.failure)
		c.refuses(t, wrapped, test.want, test.failure.code)
	}
	a.fail.Store(nil)
	c.unwraps(t, wrapped)
	a.call(azureToken{errors.New("no route to host")}).refuses(t, wrapped, protocol.KindUnavailable, "no route")
	a.Close()
	c.refuses(t, wrapped, protocol.KindUnavailable, "Azure")
}
