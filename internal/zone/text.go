package zone

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
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

// Parse reads a master file of ours back: its records without the SOA, and the serial. Invalid for one that has not the form that Text
// gives; named-checkzone is the judge of master files, this only finds out what changed.
func Parse(text []byte) (records []Record, serial uint32, err error) {
	_, serial, ok := SplitSerial(text)
	if !ok {
		return nil, 0, errs.New(errs.Invalid, "no master file of ours: it has no SOA record with a serial")
	}
	line := 0
	for l := range strings.Lines(string(text)) {
		line++
		l = strings.TrimSuffix(l, "\n")
		if l == "" || strings.HasPrefix(l, ";") {
			continue
		}
		f := strings.SplitN(l, " ", 5)
		if len(f) == 5 && f[3] == "SOA" && len(records) == 0 {
			continue
		}
		if len(f) != 5 || f[2] != "IN" || !strings.HasSuffix(f[0], ".") || num(TTL) != f[1] {
			return nil, 0, errs.New(errs.Invalid, "no master file of ours: %.80q is no record", l).At("line " + num(line))
		}
		value, ok := value(f[3], f[4])
		if !ok {
			return nil, 0, errs.New(errs.Invalid, "no master file of ours: %.80q is no data of type %.20q", f[4], f[3]).At("line " + num(line))
		}
		records = append(records, Record{Name: bare(f[0]), Type: f[3], Value: value})
	}
	return records, serial, nil
}

// value is a record's data as Record.Value has it; false for what Text never writes.
func value(kind, data string) (string, bool) {
	switch kind {
	case "A", "AAAA":
		a, err := netip.ParseAddr(data)
		return data, err == nil && a.Is4() == (kind == "A")
	case "TXT":
		text, quoted := strings.CutPrefix(data, `"`)
		text, closed := strings.CutSuffix(text, `"`)
		return text, quoted && closed && !strings.Contains(text, `"`)
	}
	_, known := kinds()[kind]
	return bare(data), known && strings.HasSuffix(data, ".") && !strings.Contains(data, " ")
}
