package npm

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/infractl/infractl/internal/errs"
)

// refusal is an answer of 400 and more.
type refusal struct {
	status  int
	message string
	debug   []string // of a certificate's request: what the authority said
}

func (r *refusal) Error() string {
	if len(r.debug) > 0 {
		return r.message + ": " + strings.Join(r.debug, "; ")
	}
	return r.message
}

// reply makes an error of an answer. Its body is read for its message alone.
func reply(r request, status int, data []byte) error {
	out := &refusal{status: status, message: http.StatusText(status)}
	var body struct {
		Error json.RawMessage `json:"error"`
		Debug struct {
			Stack json.RawMessage `json:"stack"`
		} `json:"debug"`
	}
	if json.Unmarshal(data, &body) == nil {
		var object struct {
			Message string `json:"message"`
		}
		var text string
		switch {
		case json.Unmarshal(body.Error, &object) == nil && object.Message != "":
			out.message = printable(object.Message)
		case json.Unmarshal(body.Error, &text) == nil && text != "":
			out.message = printable(text)
		}
		out.debug = challenge(body.Debug.Stack)
	}
	code := errs.Invalid
	switch {
	case status == http.StatusNotFound && !namesPath(out.message):
		code = errs.NotFound
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		code = errs.Denied
	case status >= 500:
		code = errs.Internal
	case strings.HasSuffix(out.message, "is already in use"):
		code = errs.Exists
	}
	return errs.New(code, "%s %s: %d: %w", r.method, r.path, status, out)
}

// challenge takes from certbot's trace the lines that say what the authority found, and nothing else: the rest has its command line.
func challenge(raw json.RawMessage) []string {
	var lines []string
	var text string
	if json.Unmarshal(raw, &lines) != nil && json.Unmarshal(raw, &text) == nil {
		lines = strings.Split(text, "\n")
	}
	said := regexp.MustCompile(`^\s*(Domain|Type|Detail|Hint): |Another instance of Certbot|too many certificates`)
	var out []string
	for _, line := range strings.Split(strings.Join(lines, "\n"), "\n") {
		if said.MatchString(line) && len(out) < 9 {
			out = append(out, printable(line))
		}
	}
	return out
}

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}

func statusOf(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}

func messageOf(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.message
	}
	return ""
}

// namesPath tells the 404 of a dead token (it ends in a path) from that of an object that is gone (it ends in its id).
func namesPath(message string) bool {
	at := strings.LastIndex(message, "- ")
	return at >= 0 && strings.HasPrefix(message[at+2:], "/")
}

// maybeDead reports whether an answer may mean that the token is dead.
func maybeDead(err error) bool {
	switch status, message := statusOf(err), messageOf(err); status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError:
		return true
	case http.StatusBadRequest:
		return strings.Contains(message, "Token has expired") || strings.Contains(message, "Empty token")
	case http.StatusNotFound:
		return namesPath(message)
	}
	return false
}

// flag is a boolean that releases before 2.12 write as 0 or 1.
type flag bool

// UnmarshalJSON implements json.Unmarshaler.
func (f *flag) UnmarshalJSON(data []byte) error {
	switch string(bytes.TrimSpace(data)) {
	case "true", "1":
		*f = true
	case "false", "0", "null":
		*f = false
	default:
		return errs.New(errs.Invalid, "no boolean")
	}
	return nil
}

// stamp is a time: RFC 3339 with MariaDB, without a zone and UTC with SQLite. One that is neither is zero.
type stamp time.Time

// UnmarshalJSON implements json.Unmarshaler.
func (s *stamp) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime} {
		if t, err := time.Parse(layout, text); err == nil {
			*s = stamp(t.UTC())
		}
	}
	return nil
}
