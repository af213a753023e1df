package standin

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"runtime"

	"github.com/infractl/infractl/internal/errs"
)

// Image is an image that holds this program and nothing else.
type Image struct {
	// Name is its reference.
	Name string
	// Of is what it stands for, Ports are where that answers, as 3000/http or 9443/https.
	Of    string
	Ports []string
	// User is the user number that it runs as; empty means root.
	User string
	// Data are folders that the user owns, for volumes.
	Data []string
}

// Archive writes the image as docker save does. program is the static binary of infractl-standin.
func (i Image) Archive(w io.Writer, program []byte) error {
	layer, err := i.layer(program)
	if err != nil {
		return errs.Wrap("pack the image "+i.Name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": append([]string{"/usr/bin/infractl-standin", i.Of}, i.Ports...), "User": i.User,
			"Env": []string{"PATH=/usr/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return errs.Wrap("pack the image "+i.Name, err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": digest(config) + ".json", "RepoTags": []string{i.Name}, "Layers": []string{"layer/layer.tar"}}})
	if err != nil {
		return errs.Wrap("pack the image "+i.Name, err)
	}
	tw := tar.NewWriter(w)
	for _, f := range []struct {
		name    string
		content []byte
	}{{digest(config) + ".json", config}, {"layer/layer.tar", layer}, {"manifest.json", manifest}} {
		if err := add(tw, &tar.Header{Name: f.name, Mode: 0o644}, f.content); err != nil {
			return errs.Wrap("pack the image "+i.Name, err)
		}
	}
	return errs.Wrap("pack the image "+i.Name, tw.Close())
}

// layer holds the program, its other names, and the folders of the volumes.
func (i Image) layer(program []byte) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	headers := []*tar.Header{{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755}}
	for _, name := range []string{"wget", "check-health"} {
		headers = append(headers, &tar.Header{Name: "usr/bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "infractl-standin", Mode: 0o777})
	}
	for _, dir := range i.Data {
		headers = append(headers, &tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o777})
	}
	for _, h := range headers {
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	if err := add(tw, &tar.Header{Name: "usr/bin/infractl-standin", Mode: 0o755}, program); err != nil {
		return nil, err
	}
	return b.Bytes(), tw.Close()
}

func add(tw *tar.Writer, h *tar.Header, content []byte) error {
	h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(content)
	return err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
