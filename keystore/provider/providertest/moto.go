package providertest

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

//go:embed moto.py
var motoScript []byte

// Moto is a server that plays AWS KMS.
type Moto struct {
	URL   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the server is gone
}

var motoAddress = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// StartMoto starts moto in the tree that integration/sid.sh made, on a port of its own. It ends with the test.
func StartMoto(t testing.TB, tree string) *Moto {
	t.Helper()
	cmd := exec.Command("chroot", tree, "/usr/bin/python3", "-")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"}
	cmd.Stdin = bytes.NewReader(motoScript)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatalf("start moto in %s: %v", tree, err)
	}
	m := &Moto{cmd: cmd, ended: make(chan struct{})}
	t.Cleanup(m.Stop)
	address := make(chan string, 1)
	said := make(chan string, 1)
	go func() {
		var all strings.Builder
		for s := bufio.NewScanner(r); s.Scan(); {
			if found := motoAddress.FindStringSubmatch(s.Text()); found != nil {
				address <- found[1]
			}
			if all.Len() < 10<<10 {
				fmt.Fprintln(&all, s.Text())
			}
		}
		said <- all.String()
	}()
	go func() {
		cmd.Wait()
		w.Close()
		close(m.ended)
	}()
	select {
	case m.URL = <-address:
	case <-m.ended:
		t.Fatalf("moto: %v\n%s", cmd.ProcessState, <-said)
	case <-time.After(3 * time.Minute):
		t.Fatal("moto does not say where it listens")
	}
	return m
}

// Stop ends the server: nobody listens any more when it returns.
func (m *Moto) Stop() {
	m.cmd.Process.Kill()
	<-m.ended
}

// Call asks for an operation of KMS, such as "CreateKey", and returns what moto answers.
func (m *Moto) Call(t testing.TB, region, operation string, input map[string]any) map[string]any {
	t.Helper()
	body, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", m.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	// moto reads the region and service from here, and checks nothing else of it.
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+region+"/kms/aws4_request, SignedHeaders=host, Signature=0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("moto: %s: %v", operation, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("moto: %s: %s: %s", operation, resp.Status, raw)
	}
	var out map[string]any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatalf("moto: %s: %v", operation, err)
		}
	}
	return out
}

// CreateKey makes a key with an alias, "alias/NAME", and returns its ID.
func (m *Moto) CreateKey(t testing.TB, region, alias string) string {
	t.Helper()
	out := m.Call(t, region, "CreateKey", map[string]any{})
	id := out["KeyMetadata"].(map[string]any)["KeyId"].(string)
	m.Call(t, region, "CreateAlias", map[string]any{"AliasName": alias, "TargetKeyId": id})
	return id
}
