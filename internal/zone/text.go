package zone

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Header begins every master file of ours.
const Header = "; Written by infractl; a change here shows as drift, and the next apply undoes it.\n"

// serialMark stands where the serial comes. No name has capital letters, so that it is there once.
const serialMark = "SERIAL"

// Text is the master file without its serial. The same records give the same bytes. All names are full and end in a dot.
func (z *Zone) Text() []byte {
	z.Sort()
	var b strings.Builder
	b.Grow(len(Header) + 200 + 80*len(z.Records))
	b.WriteString(Header)
	b.WriteString(z.Name + ". " + num(TTL) + " IN SOA " + z.Primary + ". " + z.Contact + ". " + serialMark + " " + num(refresh) + " " + num(retry) +
		" " + num(expire) + " " + num(negativeTTL) + "\n")
	for _, r := range z.Records {
		b.WriteString(r.Name + ". " + num(TTL) + " IN " + r.Type + " ")
		switch r.Type {
		case "A", "AAAA":
			b.WriteString(r.Value)
		case "TXT":
			b.WriteString(`"` + r.Value + `"`)
		default:
			b.WriteString(r.Value + ".")
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

func num(n int) string { return strconv.Itoa(n) }

// WithSerial puts the serial in. Invalid when the text has no place for it, or several.
func WithSerial(text []byte, serial uint32) ([]byte, error) {
	s := string(text)
	if strings.Count(s, serialMark) != 1 {
		return nil, errs.New(errs.Invalid, "the master file has not one place for its serial")
	}
	return []byte(strings.Replace(s, serialMark, strconv.FormatUint(uint64(serial), 10), 1)), nil
}

// Digest is the digest of a master file without serial: "sha256:" and hexadecimal digits.
func Digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// SplitSerial takes the serial out of a master file of ours again; false when it has not the form of one.
func SplitSerial(text []byte) (without []byte, serial uint32, ok bool) {
	s := string(text)
	before, rest, ok := strings.Cut(s, " IN SOA ")
	if !ok {
		return nil, 0, false
	}
	f := strings.SplitN(rest, " ", 4)
	if len(f) != 4 {
		return nil, 0, false
	}
	n, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != f[2] {
		return nil, 0, false
	}
	return []byte(before + " IN SOA " + f[0] + " " + f[1] + " " + serialMark + " " + f[3]), uint32(n), true
}
