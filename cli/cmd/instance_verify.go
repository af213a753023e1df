package cmd

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

// documentLimit bounds what is read of a certificate of destruction.
const documentLimit = 4 << 20

// verified is what a genuine certificate of destruction says.
type verified struct {
	Genuine     bool   `json:"genuine"`
	Site        string `json:"site"`
	Instance    string `json:"instance"`
	Company     string `json:"company"`
	Destroyed   string `json:"destroyed"`
	OrderedBy   string `json:"ordered_by"`
	Issued      string `json:"issued"`
	Authority   string `json:"authority"`
	Fingerprint string `json:"fingerprint"`
}

func (a *app) instanceVerifyCmd() *cobra.Command {
	var ca string
	var authority bool
	c := &cobra.Command{
		Use: "verify-certificate FILE", Short: "Check a certificate of destruction, without a server",
		Long: `Check that a certificate of destruction was signed by the site's authority and that nothing of it was changed since, and show what it is
about. No server is asked. The authority is the one of your login; somebody who has none names its root certificate with --ca, which
--authority prints for them. They should compare its fingerprint with you over another way. "-" reads from stdin.`,
		Example: `  infractl instance verify-certificate acme-destroyed.txt
  infractl instance verify-certificate --authority > projetpro-ca.pem
  infractl instance verify-certificate acme-destroyed.txt --ca projetpro-ca.pem -o json`,
		Args: func(c *cobra.Command, args []string) error {
			if authority {
				return arity(0, 0)(c, args)
			}
			return arity(1, 1)(c, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := a.writer()
			if err != nil {
				return err
			}
			root, err := a.rootOf(ca)
			if err != nil {
				return err
			}
			if authority {
				return w.Raw(root)
			}
			v, err := a.verifyDestruction(args[0], root)
			if err != nil {
				return err
			}
			return w.Object(v, func() error {
				return w.Pairs([][2]string{{"genuine", "yes"}, {"site", v.Site}, {"instance", v.Instance}, {"company", v.Company},
					{"destroyed", v.Destroyed}, {"ordered by", v.OrderedBy}, {"issued", v.Issued},
					{"authority", v.Authority}, {"fingerprint", v.Fingerprint}})
			})
		},
	}
	c.Flags().StringVar(&ca, "ca", "", "file with the root certificate of the site's authority, for who has no login")
	c.Flags().BoolVar(&authority, "authority", false, "print the root certificate of your login's site instead")
	exits(c, false, meaning{ExitOK, "it is genuine"}, meaning{ExitFailed, "it is not, or cannot be read"},
		meaning{ExitDenied, "no --ca, and no login whose authority could be taken"})
	return c
}

// rootOf is the root certificate in a file, else that of the operator's login.
func (a *app) rootOf(file string) ([]byte, error) {
	if file != "" {
		data, err := os.ReadFile(file)
		return data, errs.Wrap("read the authority's certificate", err)
	}
	f, err := a.folder()
	if err != nil {
		return nil, err
	}
	cred, err := f.Credential()
	if errs.Is(err, errs.Unauthenticated) {
		return nil, errs.New(errs.Unauthenticated, "not logged in, and no --ca").
			WithHint("--ca FILE, with the certificate that infractl instance verify-certificate --authority prints for who is logged in")
	}
	if err != nil {
		return nil, err
	}
	return cred.RootPEM, nil
}

// verifyDestruction checks a certificate of destruction.
func (a *app) verifyDestruction(file string, root []byte) (*verified, error) {
	document, err := a.readDocument(file)
	if err != nil {
		return nil, err
	}
	roots, err := certs.DecodeCerts(root)
	if err != nil {
		return nil, err
	}
	text, err := certs.VerifyDocument(root, document)
	if errs.Is(err, errs.Unauthenticated) { // which would say that nobody is logged in
		return nil, errs.New(errs.Invalid, "%w", err).At(file).WithHint("ask who sent it for the original file; "+
			"is %s the fingerprint of the site's authority?", certs.FingerprintOf(roots[0]))
	}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(text, "CERTIFICATE OF DESTRUCTION\n") {
		return nil, errs.New(errs.Invalid, "it is signed by the site's authority, and is no certificate of destruction").At(file)
	}
	return &verified{Genuine: true, Site: field(text, "Site"), Instance: field(text, "Instance"), Company: field(text, "Company"),
		Destroyed: field(text, "Destroyed"), OrderedBy: field(text, "Ordered by"), Issued: field(text, "Issued"),
		Authority: roots[0].Subject.String(), Fingerprint: certs.FingerprintOf(roots[0])}, nil
}

// readDocument reads a document as mail and editors may have left it: other line ends, a byte order mark, empty lines at the end. None of
// that is a word of it.
func (a *app) readDocument(file string) (string, error) {
	in, where := a.proc.In, "stdin"
	if file != "-" {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			return "", errs.New(errs.NotFound, "there is no file %s", file).WithHint("infractl instance show NAME --certificate > FILE")
		}
		if err != nil {
			return "", errs.Wrap("read the certificate", err)
		}
		defer f.Close()
		in, where = f, file
	}
	data, err := io.ReadAll(io.LimitReader(in, documentLimit+1))
	if err != nil {
		return "", errs.Wrap("read the certificate", err)
	}
	if len(data) > documentLimit {
		return "", errs.New(errs.Invalid, "it is larger than any certificate of destruction").At(where)
	}
	data = bytes.ReplaceAll(bytes.TrimPrefix(data, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	return string(bytes.TrimRight(data, "\n \t")) + "\n", nil
}

// field is the value of a line of the English text.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return "-"
}
