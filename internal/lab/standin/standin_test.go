package standin

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAStandInAnswersItsOwnWget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- Run(ctx, []string{"infractl-standin", "Portainer", port + "/https", "--admin-password-file", "/x"}, io.Discard)
	}()
	wget := func(url string) error {
		return Run(context.Background(), []string{"/usr/bin/wget", "-q", "-O", "/dev/null", url}, io.Discard)
	}
	var last error
	for range 200 {
		if last = wget("https://127.0.0.1:" + port + "/api/system/status"); last == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if last != nil {
		t.Errorf("no answer: %v", last)
	}
	if err := wget("http://127.0.0.1:" + port + "/"); err == nil {
		t.Error("http on a port of https is well")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if err := wget("https://127.0.0.1:" + port + "/"); err == nil {
		t.Error("nobody listens, and it is well")
	}
}

func TestArchiveNamesItsImage(t *testing.T) {
	var b bytes.Buffer
	if err := (Image{Name: "lab/stand-in:1", Of: "x", Ports: []string{"1/http"}}).Archive(&b, []byte("program")); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var m []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil || len(m) != 1 || m[0].RepoTags[0] != "lab/stand-in:1" {
		t.Fatalf("manifest %s, %v", files["manifest.json"], err)
	}
	if m[0].Config != digest(files[m[0].Config])+".json" || !strings.Contains(string(files[m[0].Config]), digest(files[m[0].Layers[0]])) {
		t.Errorf("configuration %s", files[m[0].Config])
	}
}
