// Package imagebuild builds the images that instances run on, on any Docker engine: of the operator's machine, or of the lab.
package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/client"

	"github.com/infractl/infractl/images"
	"github.com/infractl/infractl/internal/errs"
)

// Kinds of image.
const (
	Dolibarr = "dolibarr"
	MariaDB  = "mariadb"
	Front    = "front"
)

// Tag is the name that the server knows an image by: of Dolibarr with the version of its release.
func Tag(kind string, source *Source) string {
	switch {
	case kind == Dolibarr && source != nil:
		return "infractl/dolibarr:" + source.Version().String()
	case kind == MariaDB:
		return "infractl/mariadb:10.11"
	}
	return "infractl/" + kind + ":1"
}

// Options say what to build.
type Options struct {
	// Kind is Dolibarr, MariaDB or Front.
	Kind string
	// Tag is the image's name.
	Tag string
	// Base is the image to build on.
	Base string
	// Source is the release, for Dolibarr.
	Source *Source
	// Args are further build arguments: PHP_LOWEST and PHP_HIGHEST make a build on another PHP fail.
	Args map[string]string
	// Network is the network mode while building; empty is the engine's default.
	Network string
	// Pull fetches the base again where the engine has it.
	Pull bool
}

// Build builds an image and gives each line of the engine's output to progress, which may be nil.
func Build(ctx context.Context, engine *client.Client, o Options, progress func(string)) error {
	op := "build the image " + o.Tag
	dir, err := fs.Sub(images.FS, o.Kind)
	if err != nil {
		return errs.Wrap(op, err)
	}
	r, w := io.Pipe()
	defer r.Close() // ends the writer when the engine stops reading
	go func() { w.CloseWithError(contextTar(w, dir, o.Source)) }()
	args := map[string]*string{"BASE": &o.Base}
	for name, value := range o.Args {
		args[name] = &value
	}
	answer, err := engine.ImageBuild(ctx, r, build.ImageBuildOptions{
		Tags: []string{o.Tag}, BuildArgs: args, NetworkMode: o.Network, Remove: true, ForceRemove: true, PullParent: o.Pull,
		Version: build.BuilderV1, // the only one that Debian's engine has, and every engine has it
	})
	if err != nil {
		return errs.Wrap(op, err)
	}
	defer answer.Body.Close()
	return errs.Wrap(op, Follow(answer.Body, progress))
}

// Follow reads an engine's messages to the end and returns the error among them, with the last output.
func Follow(r io.Reader, line func(string)) error {
	var last []string
	for dec := json.NewDecoder(r); ; {
		var msg struct{ Stream, Error string }
		if err := dec.Decode(&msg); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if text := strings.TrimSpace(msg.Stream); text != "" {
			last = append(last[max(0, len(last)-9):], text)
			if line != nil {
				line(text)
			}
		}
		if msg.Error != "" {
			return errs.New(errs.Internal, "%s: %s", msg.Error, strings.Join(last, "\n"))
		}
	}
}

// ContextHash is the hash of what an image is made from; the same hash means the same context.
func ContextHash(o Options) (string, error) {
	dir, err := fs.Sub(images.FS, o.Kind)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, o.Kind, o.Tag, o.Base, o.Args)
	if err := contextTar(h, dir, o.Source); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}
