package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/infractl/infractl/internal/errs"
)

// ImageID returns the digest ("sha256:...") of an image's configuration. A missing image gives an error with code NotFound.
func (e *Engine) ImageID(ctx context.Context, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	raw, err := e.client.ImageInspect(ctx, ref)
	if err != nil {
		return "", e.failed("look at an image", err)
	}
	return raw.ID, nil
}

// TagImage gives an image one more name.
func (e *Engine) TagImage(ctx context.Context, id, ref string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if err := e.client.ImageTag(ctx, id, ref); err != nil {
		return e.failed("name an image", err)
	}
	return nil
}

// LoadImage loads an archive as "docker save" makes it. It is the caller's context that bounds it.
func (e *Engine) LoadImage(ctx context.Context, archive io.Reader) error {
	resp, err := e.client.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return e.failed("load an image", err)
	}
	defer resp.Body.Close()
	return e.follow("load an image", resp.Body)
}

// PullImage gets an image from its registry, without credentials. It is the caller's context that bounds it.
func (e *Engine) PullImage(ctx context.Context, ref string) error {
	body, err := e.client.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		if cerrdefs.IsNotFound(err) {
			return errs.New(errs.NotFound, "no registry has the image").At(ref).
				WithHint("check its name, or put it onto the server: infractl image push")
		}
		return e.failed("pull "+ref, err)
	}
	defer body.Close()
	return e.follow("pull "+ref, body)
}

// follow reads progress to its end: a failure stands in it, under status 200.
func (e *Engine) follow(op string, body io.Reader) error {
	decoder := json.NewDecoder(body)
	for {
		var line struct {
			Error string `json:"error"`
		}
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return e.failed(op, err)
		}
		if line.Error != "" {
			return e.failed(op, errors.New(tail(line.Error, 1000)))
		}
	}
}
