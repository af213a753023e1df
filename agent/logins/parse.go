package logins

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"strconv"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// record is a line of the journal.
type record struct {
	cursor  string
	time    time.Time
	message string
}

// parseRecord reads what journalctl prints. A message that is no text is empty.
func parseRecord(line []byte) (record, error) {
	var r struct {
		Cursor  string          `json:"__CURSOR"`
		Time    string          `json:"__REALTIME_TIMESTAMP"`
		Message json.RawMessage `json:"MESSAGE"`
	}
	if err := json.Unmarshal(line, &r); err != nil || !validCursor(r.Cursor) {
		return record{}, errs.New(errs.Invalid, "a line of the journal cannot be read")
	}
	out := record{cursor: r.Cursor}
	if us, err := strconv.ParseInt(r.Time, 10, 64); err == nil {
		out.time = time.UnixMicro(us)
	}
	_ = json.Unmarshal(r.Message, &out.message) // bytes that are no text come as numbers
	return out, nil
}

// validCursor reports whether text may be given to journalctl.
func validCursor(text string) bool {
	return len(text) <= 512 && regexp.MustCompile(`^[a-z0-9]+=[A-Za-z0-9=;]+$`).MatchString(text)
}

// login is an accepted login as sshd tells of it.
type login struct {
	method, account, source string
	// key is the key's fingerprint; empty without one.
	key string
	// certificate says that a certificate let in, with its id and serial number and the fingerprint of its authority.
	certificate           bool
	id, serial, authority string
}

// parseLogin reads a message of sshd; false says that it tells of no accepted login. What an attacker may choose (an account's
// name that does not exist) never stands in such a message: only what was accepted does.
func parseLogin(message string) (login, bool) {
	m := regexp.MustCompile(`^Accepted ([a-z/-]{1,40}) for ([a-z_][a-z0-9_-]{0,31}) from ([0-9a-fA-F.:]{2,45})(?:%\S{1,16})? port [0-9]{1,5} ssh2(?:: (.{1,700}))?$`).FindStringSubmatch(message)
	if m == nil {
		return login{}, false
	}
	l := login{method: m[1], account: m[2], source: m[3]}
	if _, err := netip.ParseAddr(l.source); err != nil {
		return login{}, false
	}
	if c := regexp.MustCompile(`^\S{1,40}-CERT (SHA256:\S{43}) ID (.{0,300}) \(serial ([0-9]{1,20})\) CA \S{1,40} (SHA256:\S{43})$`).FindStringSubmatch(m[4]); c != nil {
		l.certificate, l.key, l.id, l.serial, l.authority = true, c[1], c[2], c[3], c[4]
	} else if k := regexp.MustCompile(`^\S{1,40} (SHA256:\S{43})$`).FindStringSubmatch(m[4]); k != nil {
		l.key = k[1]
	}
	return l, true
}

// operator returns who a certificate of ours was made for, and the entry of the audit log about its making.
func (l login) operator() (name, entry string, ok bool) {
	m := regexp.MustCompile(`^infractl (operator/[a-z0-9.-]{1,63}) ([0-9]{1,20})$`).FindStringSubmatch(l.id)
	if !l.certificate || m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}
