package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/app"
	"github.com/infractl/infractl/server/backup"
)

// defaultBackups is where backups go unless told otherwise.
const defaultBackups = "/var/lib/infractl-server-backups"

// exitCodes documents what backup, verify and restore end with.
const exitCodes = `

Exit codes: 0 done; 1 failed; 3 the backup is damaged or cut short; 4 the recovery key does not open it; 5 there is a file or a
server already; 6 the disk is full. After any but 0, what was there before is as it was (restore: see --finish).`

// exitCode turns an error of these commands into an exit code. 2 is left to the Go runtime.
func exitCode(err error) int {
	switch errs.CodeOf(err) {
	case errs.Invalid:
		return 3
	case errs.Denied:
		return 4
	case errs.Exists:
		return 5
	case errs.Exhausted:
		return 6
	}
	return 1
}

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

// Unwrap returns the error.
func (c coded) Unwrap() error { return c.error }

func withCode(err error) error {
	if err == nil {
		return nil
	}
	return coded{err, exitCode(err)}
}

func backupCmd(cfg *app.Config, out, errOut io.Writer) *cobra.Command {
	var to, dir string
	var keep int
	var images bool
	c := &cobra.Command{
		Use:   "backup",
		Short: "Back the server up while it runs, encrypted to the recovery key",
		Long: `Back the server up: database, settings, authority and keys, in one file that only the recovery key opens. The server may run
meanwhile, and then makes the backup itself; only root may ask it. Image archives are named and not taken, unless
--with-images. A file that exists is never overwritten, and an interrupted backup leaves none.` + exitCodes,
		Example: "  infractl-server backup\n  infractl-server backup --out /mnt/usb/infractl.age\n  infractl-server backup --out - | ssh store 'cat > infractl.age'",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			make := func(ctx context.Context, w io.Writer) (*v1.BackupSummary, error) {
				return app.Backup(ctx, *cfg, images, w)
			}
			return withCode(runBackup(c.Context(), cfg, make, to, dir, keep, out, errOut))
		},
	}
	f := c.Flags()
	f.StringVar(&to, "out", "", "the file to write; - is standard output")
	f.StringVar(&dir, "dir", defaultBackups, "without --out: the folder for a file named by site and time")
	f.IntVar(&keep, "keep", 0, "without --out: how many files of this site stay in the folder, newest first; 0 keeps all")
	f.BoolVar(&images, "with-images", false, "take the image archives too")
	f.StringVar(&cfg.Socket, "socket", app.DefaultSocket, "the running server's Unix socket")
	c.AddCommand(verifyCmd(out))
	return c
}

func runBackup(ctx context.Context, cfg *app.Config, make backup.Maker, to, dir string, keep int, out, errOut io.Writer) error {
	var sum *v1.BackupSummary
	var err error
	switch to {
	case "-":
		if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return errs.New(errs.Precondition, "a backup is not written to a terminal").WithHint("give a file, or a pipe")
		}
		sum, err = make(ctx, out)
	case "":
		var site string
		if site, err = app.Site(*cfg); err != nil {
			return err
		}
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return errs.New(errs.Internal, "%w", err).At(dir)
		}
		to, sum, err = backup.ToFolder(ctx, dir, site, time.Now(), keep, make)
	default:
		sum, err = backup.ToFile(ctx, to, make)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(errOut, "backup %s of site %s: revision %d, %d nodes, %d files, %d bytes, to %s\n", sum.GetId(), sum.GetSite(),
		sum.GetSiteRevision(), sum.GetNodes(), sum.GetFiles(), sum.GetSize(), to)
	if n := sum.GetImagesLeft(); n > 0 {
		fmt.Fprintf(errOut, "%d image archives are only named in it; --with-images takes them\n", n)
	}
	return nil
}

func verifyCmd(out io.Writer) *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read a whole backup and check that it can be restored",
		Long: `Read a whole backup: every digest, the database, and the chain of its audit log. Nothing is changed; the database is unpacked in a
temporary folder meanwhile. FILE may be - for standard input.` + exitCodes,
		Example: "  infractl-server backup verify infractl-projetpro-20261124T030000Z.age",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			from, key, err := openBackup(args[0], keyFile, c.InOrStdin(), c.ErrOrStderr())
			if err != nil {
				return withCode(err)
			}
			defer from.Close()
			m, err := backup.Verify(c.Context(), from, key, clock.System{}, hclog.NewNullLogger())
			if err != nil {
				return withCode(err)
			}
			showManifest(out, m)
			return nil
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "file with the recovery key, - for standard input; without it the key is asked for")
	return c
}

func showManifest(out io.Writer, m *backup.Manifest) {
	fmt.Fprintf(out, `backup        %s, whole and readable
site          %s
fingerprint   %s
made          %s by infractl-server %s
revision      %d (resources %d)
audit log     ends with entry %d of %s
identities    %d nodes, %d operators, %d withdrawn keys
files         %d, %d bytes
`, m.ID, m.Site, m.Fingerprint, m.Made.Format(time.RFC3339), m.Version, m.SiteRevision, m.ResourceRevision, m.AuditLast,
		m.AuditTime.Format(time.RFC3339), m.Nodes, m.Operators, m.Revoked, len(m.Parts), m.Size())
	for _, p := range m.Left {
		fmt.Fprintf(out, "not in it     %s (%d bytes)\n", p.Name, p.Size)
	}
}

// openBackup opens the file and reads the key: from a file, from standard input, or typed at a prompt without echo.
func openBackup(path, keyFile string, in io.Reader, errOut io.Writer) (io.ReadCloser, age.Identity, error) {
	if path == "-" && keyFile == "-" {
		return nil, nil, errs.New(errs.Precondition, "backup and key cannot both come from standard input")
	}
	key, err := readKey(path, keyFile, in, errOut)
	if err != nil {
		return nil, nil, err
	}
	if path == "-" {
		return io.NopCloser(in), key, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, errs.New(errs.NotFound, "%w", err).At(path)
	}
	return f, key, nil
}

// maxKey bounds what is read as a key in bytes.
const maxKey = 4096

func readKey(path, keyFile string, in io.Reader, errOut io.Writer) (age.Identity, error) {
	var text []byte
	var err error
	switch keyFile {
	case "-":
		text, err = io.ReadAll(io.LimitReader(in, maxKey))
	case "":
		terminal, ok := in.(*os.File)
		if !ok || path == "-" || !term.IsTerminal(int(terminal.Fd())) {
			return nil, errs.New(errs.Precondition, "there is no terminal to ask for the recovery key on").
				WithHint("give it with --key FILE, or --key - and the key on standard input")
		}
		fmt.Fprint(errOut, "recovery key (from the paper; it is not shown): ")
		text, err = term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(errOut)
	default:
		var f *os.File
		if f, err = os.Open(keyFile); err == nil {
			defer f.Close()
			text, err = io.ReadAll(io.LimitReader(f, maxKey))
		}
	}
	if err != nil {
		return nil, errs.New(errs.NotFound, "the recovery key cannot be read: %w", err)
	}
	key, err := backup.ParseKey(text)
	if err != nil { // it is the key that is wrong, not the backup
		return nil, errs.New(errs.Denied, "%s", strings.TrimSpace(err.Error())).WithHint("%s", errs.HintOf(err))
	}
	return key, nil
}
