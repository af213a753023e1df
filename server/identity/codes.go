package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

// CodeLife is how long an admin code may be used.
const CodeLife = 24 * time.Hour

// codeBytes is the length of a code before it is written as text: 100 bits are enough for a code that lives a day.
const codeBytes = 13

// Codes keeps one-use admin codes in a folder: one file per code, named by the code's hash. They are files and not records
// of the store because the store has one process at a time, and a new code is made beside a running server.
type Codes struct {
	dir   string
	clock clock.Clock
}

// NewCodes returns the codes kept in dir.
func NewCodes(dir string, clk clock.Clock) *Codes { return &Codes{dir: dir, clock: clk} }

type codeFile struct {
	Expires time.Time `json:"expires"`
}

// Create makes a code. Only the hash is kept; whoever owns the folder owns the file too, so that a server with an account
// of its own can read what root made.
func (c *Codes) Create() (code string, expires time.Time, err error) {
	const op = "make admin code"
	raw := make([]byte, codeBytes)
	if _, err := rand.Read(raw); err != nil {
		return "", time.Time{}, errs.Wrap(op, err)
	}
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)[:20]
	expires = c.clock.Now().Add(CodeLife).UTC().Truncate(time.Second)
	data, err := json.Marshal(codeFile{Expires: expires})
	if err != nil {
		return "", time.Time{}, errs.Wrap(op, err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return "", time.Time{}, errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(c.dir))
	}
	path := c.path(text)
	if err := certs.WriteFile(path, data, 0o600); err != nil {
		return "", time.Time{}, errs.Wrap(op, err)
	}
	if info, err := os.Stat(c.dir); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
				return "", time.Time{}, errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(path))
			}
		}
	}
	return strings.Join([]string{text[0:5], text[5:10], text[10:15], text[15:20]}, "-"), expires, nil
}

// Use takes a code. It succeeds once; a wrong, used or expired code is Denied.
func (c *Codes) Use(code string) error {
	refused := errs.New(errs.Denied, "the code is wrong, used, or has expired").
		WithHint("make a new one on the server's machine: infractl-server admin-code")
	text := strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	if len(text) != 20 {
		return refused
	}
	path := c.path(text)
	data, err := os.ReadFile(path)
	if err != nil {
		return refused
	}
	var f codeFile
	if err := json.Unmarshal(data, &f); err != nil {
		return refused
	}
	// Removing the file is the one step that only one caller wins.
	if err := os.Remove(path); err != nil || !c.clock.Now().Before(f.Expires) {
		return refused
	}
	return nil
}

// Prune removes codes that have expired.
func (c *Codes) Prune() {
	files, _ := filepath.Glob(filepath.Join(c.dir, "*.json"))
	for _, path := range files {
		var f codeFile
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &f) == nil && !c.clock.Now().Before(f.Expires) {
			_ = os.Remove(path) // the next round tries again
		}
	}
}

func (c *Codes) path(text string) string {
	sum := sha256.Sum256([]byte("infractl admin code\n" + text))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+".json")
}
