package jointoken

import (
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// LoginPrefix begins the text with which an operator logs in for the first time; its number changes with the format.
const LoginPrefix = "infractl-login1."

const loginHint = "ask an admin for a new one: infractl operator add NAME"

// IsLogin reports whether text looks like an operator's login code, as opposed to an admin code of the server's own machine.
func IsLogin(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), LoginPrefix) }

// EncodeLogin returns t as an operator's login code. It always has an id and a secret.
func EncodeLogin(t *Token) (string, error) {
	const op = "write login code"
	if err := t.validateLogin(); err != nil {
		return "", errs.Wrap(op, err)
	}
	text, err := t.text(LoginPrefix)
	return text, errs.Wrap(op, err)
}

// ParseLogin reads an operator's login code as strictly as Parse reads a join token; no error quotes the text.
func ParseLogin(text string) (*Token, error) {
	const op = "read login code"
	t, err := parse(text, LoginPrefix, loginHint)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := t.validateLogin(); err != nil {
		return nil, errs.Wrap(op, err)
	}
	return t, nil
}

func (t *Token) validateLogin() error {
	if t.ID == "" || t.Secret.Empty() {
		return errs.New(errs.Invalid, "it has no secret").WithHint("%s", loginHint)
	}
	return t.validate()
}
