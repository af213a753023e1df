package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) imageCmd() *cobra.Command {
	return group("image", "Build, push, list and prune image archives, in place of a registry", a.imageBuildCmd(), a.imagePushCmd(), a.imageListCmd(), a.imagePruneCmd())
}

func (a *app) imagePushCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "push FILE|-", Short: "Give the server an image archive",
		Long: `Give the server an archive as "docker save NAME:TAG" writes it, from a file or from stdin. Hosts whose stacks name that image load
it from the server from then on, and not from a registry.

Nothing changes on any host yet: a newer archive of an image that is in use shows in "infractl plan", and the next apply brings it
to the hosts.`,
		Example: "  docker save mariadb:10.11.10 | infractl image push -\n  infractl image push grafana.tar",
		Args:    arity(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				return a.pushImage(ctx, conn, w, args[0])
			})
		},
	}
	return c
}

func (a *app) pushImage(ctx context.Context, conn *grpc.ClientConn, w *output.Writer, file string) error {
	in, size, done, err := a.archive(file)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when this end fails
	stream, err := v1.NewImageServiceClient(conn).PushImage(ctx)
	if err != nil {
		return err
	}
	bar := &byteBar{a: a, total: size}
	digest, err := sendArchive(stream, in, size, bar.update)
	bar.end()
	if err != nil {
		return err
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if got := resp.GetImage().GetDigest(); got != digest {
		return errs.New(errs.Internal, "the server has stored %s, and %s was sent", got, digest).WithHint("push it again")
	}
	return w.Message(resp, func() error {
		what := "stored"
		if resp.GetExisted() {
			what = "was there already"
		}
		w.Printf("%s  %s  %s\n", strings.Join(resp.GetImage().GetNames(), ", "), sizeText(resp.GetImage().GetSize()), digest)
		a.note("%s; infractl plan shows what it changes", what)
		return nil
	})
}

// archive opens what is pushed; size is 0 when it is not known.
func (a *app) archive(file string) (in io.Reader, size uint64, done func(), err error) {
	if file == "-" {
		if isTerminal(a.proc.In) {
			return nil, 0, nil, errs.New(errs.Invalid, "stdin is a terminal").WithHint("docker save NAME:TAG | infractl image push -")
		}
		return a.proc.In, 0, func() {}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, nil, errs.New(errs.Invalid, "cannot be read: %w", cause(err)).At(file).WithHint("docker save -o FILE NAME:TAG writes an archive")
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		_ = f.Close()
		return nil, 0, nil, errs.New(errs.Invalid, "is a folder, not an archive").At(file)
	}
	if err == nil && info.Mode().IsRegular() {
		size = uint64(info.Size())
	}
	return f, size, func() { _ = f.Close() }, nil
}

// archivePart is the size of one message of a push, in bytes.
const archivePart = 256 << 10

// sendArchive sends an archive and returns its digest. When the server ends the call early the error is nil: CloseAndRecv has it.
func sendArchive(stream grpc.ClientStreamingClient[v1.PushImageRequest, v1.PushImageResponse], in io.Reader, size uint64, progress func(uint64)) (string, error) {
	hash := sha256.New()
	sum := func() string { return "sha256:" + hex.EncodeToString(hash.Sum(nil)) }
	err := stream.Send(&v1.PushImageRequest{Message: &v1.PushImageRequest_Start{Start: &v1.PushImageStart{Size: size}}})
	sent := uint64(0)
	for err == nil {
		data := make([]byte, archivePart)
		n, rerr := io.ReadFull(in, data)
		if rerr != nil && !errors.Is(rerr, io.EOF) && !errors.Is(rerr, io.ErrUnexpectedEOF) {
			return "", errs.New(errs.Invalid, "the archive cannot be read: %w", cause(rerr))
		}
		if n > 0 {
			hash.Write(data[:n])
			err = stream.Send(&v1.PushImageRequest{Message: &v1.PushImageRequest_Data{Data: data[:n]}})
			sent += uint64(n)
			progress(sent)
		}
		if rerr != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return sum(), nil
}

// byteBar shows on a terminal how far a transfer is.
type byteBar struct {
	a     *app
	total uint64
	shown time.Time
	drawn bool
}

func (b *byteBar) update(sent uint64) {
	now := time.Now()
	if !isTerminal(b.a.proc.Err) || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown, b.drawn = now, true
	if b.total == 0 {
		fmt.Fprintf(b.a.proc.Err, "\r\x1b[2K%s sent", sizeText(sent))
		return
	}
	const cells = 24
	full := int(min(sent, b.total) * cells / b.total)
	fmt.Fprintf(b.a.proc.Err, "\r\x1b[2K[%s%s] %d%%  %s of %s", strings.Repeat("#", full), strings.Repeat(" ", cells-full),
		min(sent, b.total)*100/b.total, sizeText(sent), sizeText(b.total))
}

func (b *byteBar) end() {
	if b.drawn {
		fmt.Fprint(b.a.proc.Err, "\r\x1b[2K")
	}
}

func sizeText(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func (a *app) imageListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the server's image archives", Example: "  infractl image list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewImageServiceClient(conn).ListImages(ctx, &v1.ListImagesRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error { return a.showImages(w, list.GetImages()) })
			})
		},
	}
}

func (a *app) showImages(w *output.Writer, list []*v1.Image) error {
	var rows [][]string
	for _, i := range list {
		rows = append(rows, []string{strings.Join(i.GetNames(), ", "), short(i.GetDigest()), sizeText(i.GetSize()), a.ago(i.GetPushed()),
			strings.TrimPrefix(i.GetOperator(), "operator/"), dash(strings.Join(i.GetUsedBy(), ", "))})
	}
	return w.Rows([]string{"IMAGE", "ARCHIVE", "SIZE", "PUSHED", "OPERATOR", "USED BY"}, rows)
}

func (a *app) imagePruneCmd() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "prune", Short: "Remove image archives that no stack uses",
		Long: `Remove the image archives that no stack of the current revision uses. Those of the last hour stay: whoever pushed them may be
about to apply. Nothing is removed while a rollout is at work.`,
		Example: "  infractl image prune --dry-run", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				if !dry {
					if err := a.confirm(ctx, "Remove image archives that no stack uses?"); err != nil {
						return err
					}
				}
				resp, err := v1.NewImageServiceClient(conn).PruneImages(ctx, &v1.PruneImagesRequest{DryRun: dry})
				if err != nil {
					return err
				}
				return w.Message(resp, func() error { return a.showPruned(w, resp, dry) })
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	a.yesFlag(c)
	return c
}

func (a *app) showPruned(w *output.Writer, resp *v1.PruneImagesResponse, dry bool) error {
	total := uint64(0)
	for _, i := range resp.GetImages() {
		total += i.GetSize()
	}
	word := "removed"
	if dry {
		word = "would go"
	}
	a.note("%d archives %s, %s", len(resp.GetImages()), word, sizeText(total))
	if len(resp.GetImages()) == 0 {
		return nil
	}
	return a.showImages(w, resp.GetImages())
}
