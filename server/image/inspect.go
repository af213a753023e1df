package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/errs"
)

// Limits of what is read of an archive.
const (
	maxEntries  = 20_000
	maxDocument = 4 << 20
	maxNames    = 100
)

// about is what an archive says of its image.
type about struct {
	id    string
	names []string
}

type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type config struct {
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// inspect reads an archive as "docker save" writes it, with an OCI layout inside or without, and checks that every layer is
// there and whole.
func inspect(f io.ReadSeeker) (about, error) {
	docs := map[string][]byte{"manifest.json": nil}
	links, err := walk(f, docs, nil)
	if err != nil {
		return about{}, err
	}
	var list []manifest
	if docs["manifest.json"] == nil {
		return about{}, notAnImage("it has no manifest.json")
	}
	if err := json.Unmarshal(docs["manifest.json"], &list); err != nil {
		return about{}, notAnImage("its manifest.json cannot be read")
	}
	if len(list) != 1 {
		return about{}, errs.New(errs.Invalid, "the archive has %d images, not one", len(list)).WithHint("push them one by one: docker save NAME:TAG | infractl image push -")
	}
	m := list[0]
	out := about{}
	if out.names, err = names(m.RepoTags); err != nil {
		return about{}, err
	}
	docs = map[string][]byte{path.Clean(m.Config): nil}
	sums := map[string]string{}
	for _, layer := range m.Layers {
		sums[resolve(links, layer)] = ""
	}
	if _, err := walk(f, docs, sums); err != nil {
		return about{}, err
	}
	content := docs[path.Clean(m.Config)]
	if content == nil {
		return about{}, damaged("the image's configuration is missing")
	}
	sum := sha256.Sum256(content)
	out.id = "sha256:" + hex.EncodeToString(sum[:])
	if base := strings.TrimSuffix(path.Base(m.Config), ".json"); "sha256:"+base != out.id {
		return about{}, damaged("the image's configuration is not the one that its name says")
	}
	return out, whole(content, m.Layers, links, sums)
}

// whole compares the layers with what the configuration says of them.
func whole(content []byte, layers []string, links, sums map[string]string) error {
	var c config
	if err := json.Unmarshal(content, &c); err != nil {
		return damaged("the image's configuration cannot be read")
	}
	if len(c.RootFS.DiffIDs) != len(layers) {
		return damaged("layers are missing")
	}
	for i, layer := range layers {
		at := resolve(links, layer)
		// A layer is named by its own digest (OCI layout), or is the uncompressed one whose digest the configuration has.
		got := sums[at]
		named := strings.HasPrefix(at, "blobs/sha256/") && got == "sha256:"+path.Base(at)
		if got == "" || got != c.RootFS.DiffIDs[i] && !named {
			return damaged("layer " + layer + " is missing or not whole")
		}
	}
	return nil
}

// names returns the references as people write them.
func names(tags []string) ([]string, error) {
	var out []string
	for _, tag := range tags {
		name, ok := compose.Familiar(tag)
		if !ok {
			return nil, errs.New(errs.Invalid, "the archive calls its image %.100q, which is no name with a tag", tag)
		}
		out = append(out, name)
	}
	if len(out) == 0 || len(out) > maxNames {
		return nil, errs.New(errs.Invalid, "the archive gives its image %d names", len(out)).
			WithHint("save it by its name and tag: docker save NAME:TAG | infractl image push -")
	}
	return out, nil
}

func resolve(links map[string]string, name string) string {
	name = path.Clean(name)
	if to, ok := links[name]; ok {
		return to
	}
	return name
}

// walk reads all entries: the content of those in docs, the digest of those in sums. It returns the symbolic links inside.
func walk(f io.ReadSeeker, docs map[string][]byte, sums map[string]string) (map[string]string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errs.New(errs.Internal, "read the archive: %w", err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(f, head); err == nil && bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return nil, errs.New(errs.Invalid, "the archive is compressed").WithHint("gunzip -c FILE | infractl image push -")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errs.New(errs.Internal, "read the archive: %w", err)
	}
	links := map[string]string{}
	r := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, notAnImage("it is empty")
			}
			return links, nil
		}
		if err != nil {
			if n == 0 {
				return nil, notAnImage("it is no tar file")
			}
			return nil, damaged("it ends in the middle, or is not whole")
		}
		if n >= maxEntries {
			return nil, notAnImage("it has too many entries")
		}
		if err := entry(r, h, docs, sums, links); err != nil {
			return nil, err
		}
	}
}

func entry(r io.Reader, h *tar.Header, docs map[string][]byte, sums, links map[string]string) error {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeSymlink {
		links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, wanted := docs[name]; wanted {
		if h.Size > maxDocument {
			return notAnImage(name + " is too large")
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return damaged("it ends in the middle")
		}
		docs[name] = content
		return nil
	}
	if _, wanted := sums[name]; wanted {
		hash := sha256.New()
		if _, err := io.Copy(hash, r); err != nil {
			return damaged("it ends in the middle")
		}
		sums[name] = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	}
	return nil
}

func notAnImage(why string) error {
	return errs.New(errs.Invalid, "this is no image archive: %s", why).WithHint("make one with docker save NAME:TAG")
}

func damaged(why string) error {
	return errs.New(errs.Invalid, "the image archive is damaged: %s", why).WithHint("save and push it again")
}
