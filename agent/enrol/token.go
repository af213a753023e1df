package enrol

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
)

// TokenVariable is the environment variable of the unit that may hold the join token.
const TokenVariable = "INFRACTL_JOIN_TOKEN"

// TemplateMark is the file that marks a machine that is being made a template: it must not enrol, or all its clones would.
const TemplateMark = "/etc/infractl/template"

// TokenFiles are the places of the join token, in order: by hand, and from cloud-init.
func TokenFiles() []string {
	return []string{
		"/etc/infractl/join-token",
		"/var/lib/cloud/seed/infractl/join-token",
		"/var/lib/cloud/instance/infractl/join-token",
	}
}

// tokens finds the join token and removes it once it is used.
type tokens struct {
	host   *host.Host
	files  []string
	getenv func(string) string
}

// find returns the first token that is not among used. Without one it is NotFound; a text that is no token is Invalid,
// unless a good one stands in another place.
func (t tokens) find(used []string) (*jointoken.Token, error) {
	var bad error
	take := func(where, text string) *jointoken.Token {
		if text == "" {
			return nil
		}
		token, err := jointoken.Parse(text)
		if err != nil {
			if bad == nil {
				bad = &errs.Error{Op: "read " + where, Code: errs.Invalid, Err: err, Hint: errs.HintOf(err)}
			}
			return nil
		}
		if token.ID != "" && slices.Contains(used, token.ID) {
			return nil
		}
		return token
	}
	for _, path := range t.files {
		text, err := t.read(path)
		if err != nil {
			bad = err
			continue
		}
		if token := take(path, text); token != nil {
			return token, nil
		}
	}
	if token := take(TokenVariable, t.getenv(TokenVariable)); token != nil {
		return token, nil
	}
	if bad != nil {
		return nil, bad
	}
	return nil, errs.New(errs.NotFound, "there is no join token").
		WithHint("make one with: infractl token create --node NAME; then write it to %s on this machine", t.files[0])
}

func (t tokens) read(path string) (string, error) {
	f, err := os.Open(t.host.Path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", errs.New(errs.Internal, "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, jointoken.MaxText+1))
	return string(data), errs.Wrap("read "+path, err)
}

// remove deletes the files that hold the token called id. The token is of one use, so that deleting is enough.
func (t tokens) remove(id string) error {
	var failed []error
	for _, path := range t.files {
		text, err := t.read(path)
		if err != nil || text == "" {
			continue
		}
		if token, err := jointoken.Parse(text); err != nil || token.ID != id {
			continue
		}
		failed = append(failed, errs.Wrap("remove join token", t.host.Remove(path)))
	}
	return errs.Join(failed...)
}
