package session

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// secretsTimeout bounds a question for secrets; idleTimeout is how long a transfer may stand still.
const (
	secretsTimeout = 20 * time.Second
	idleTimeout    = 30 * time.Second
	// contentTimeout bounds the transfer of a content, maxContent its bytes.
	contentTimeout = 60 * time.Second
	maxContent     = 8 << 20
)

// apart opens a connection of its own, so that a transfer never stands before the session's messages.
func (s *Session) apart() (*enrol.Conn, error) {
	config, id, err := s.clientTLS()
	if err != nil {
		return nil, err
	}
	return enrol.Dial(id.Servers, 0, config)
}

// FetchSecrets returns values of secrets that the wanted spec names, in the order of the references; 100 at most.
func (s *Session) FetchSecrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	const op = "fetch secrets"
	conn, err := s.apart()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	response, err := v1.NewSessionServiceClient(conn).FetchSecrets(ctx, &v1.FetchSecretsRequest{Refs: refs})
	if err != nil {
		return nil, errs.Wrap(op, errs.FromGRPC(err))
	}
	return response.GetValues(), nil
}

// FetchContent returns a large text that the wanted spec names by digest; Invalid when it is longer than 8 MiB. The caller compares
// the digest.
func (s *Session) FetchContent(ctx context.Context, digest string) ([]byte, error) {
	const op = "fetch content"
	conn, err := s.apart()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, contentTimeout)
	defer cancel()
	stream, err := v1.NewSessionServiceClient(conn).FetchContent(ctx, &v1.FetchContentRequest{Digest: digest})
	if err != nil {
		return nil, errs.Wrap(op, errs.FromGRPC(err))
	}
	var out []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, errs.Wrap(op, errs.FromGRPC(err))
		}
		if out = append(out, part.GetData()...); len(out) > maxContent {
			return nil, errs.New(errs.Invalid, "%s: more than %d bytes came", op, maxContent)
		}
	}
}

// FetchImage streams an archive from offset on and calls each with the whole's size and every part. An error of each ends it.
func (s *Session) FetchImage(ctx context.Context, digest string, offset uint64, each func(size uint64, data []byte) error) error {
	const op = "fetch image"
	conn, err := s.apart()
	if err != nil {
		return errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(idleTimeout, cancel)
	defer idle.Stop()
	stalled := func(err error) error {
		if errs.Is(err, errs.Canceled) && !idle.Stop() {
			return errs.New(errs.Unavailable, "%s: nothing came for %s", op, idleTimeout)
		}
		return errs.Wrap(op, err)
	}
	stream, err := v1.NewSessionServiceClient(conn).FetchImage(ctx, &v1.FetchImageRequest{Digest: digest, Offset: offset})
	if err != nil {
		return stalled(errs.FromGRPC(err))
	}
	size := uint64(0)
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return stalled(errs.FromGRPC(err))
		}
		if size == 0 {
			size = part.GetSize()
		}
		idle.Reset(idleTimeout)
		if err := each(size, part.GetData()); err != nil {
			return err
		}
	}
}
