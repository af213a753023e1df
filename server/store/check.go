package store

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/infractl/infractl/internal/errs"
)

// CheckKind returns Invalid unless kind may name records.
func CheckKind(kind Kind) error {
	ok := kind != "" && len(kind) <= MaxKind && kind[0] >= 'a' && kind[0] <= 'z'
	for _, c := range []byte(kind) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return errs.New(errs.Invalid, "%.80q is not a kind of records", string(kind))
	}
	return nil
}

// CheckName returns Invalid unless name may name a record or a lease: 1 to MaxName bytes of UTF-8 without zero bytes.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return errs.New(errs.Invalid, "a name has 1 to %d bytes, not %d", MaxName, len(name))
	}
	return checkText(name)
}

func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errs.New(errs.Invalid, "%q is not UTF-8", s)
	}
	for i := range len(s) {
		if s[i] == 0 {
			return errs.New(errs.Invalid, "%q has a zero byte", s)
		}
	}
	return nil
}

// CheckList returns Invalid unless opts can be answered.
func CheckList(kind Kind, opts ListOptions) error {
	if err := CheckKind(kind); err != nil {
		return err
	}
	if len(opts.Prefix) > MaxName || len(opts.After) > MaxName || opts.Limit < 0 {
		return errs.New(errs.Invalid, "list of %s: prefix or start too long, or negative limit", kind)
	}
	return nil
}

// CheckOps returns Invalid unless ops may be one Write: limits hold, expectations make sense, and no record is named twice.
func CheckOps(ops []Op) error {
	if len(ops) == 0 || len(ops) > MaxOps {
		return errs.New(errs.Invalid, "a write has 1 to %d operations, not %d", MaxOps, len(ops))
	}
	type key struct {
		kind Kind
		name string
	}
	seen := make(map[key]bool, len(ops))
	sum := 0
	for _, op := range ops {
		kind, name, expect := Target(op)
		if err := CheckKind(kind); err != nil {
			return err
		}
		if err := CheckName(name); err != nil {
			return err
		}
		if seen[key{kind, name}] {
			return errs.New(errs.Invalid, "%s %q stands twice in one write", kind, name)
		}
		seen[key{kind, name}] = true
		if expect < Any {
			return errs.New(errs.Invalid, "%s %q: %d is not a revision", kind, name, expect)
		}
		switch o := op.(type) {
		case Put:
			if len(o.Data) > MaxData {
				return errs.New(errs.Invalid, "%s %q has %d bytes, more than %d", kind, name, len(o.Data), MaxData)
			}
			sum += len(o.Data)
		case Delete:
			if expect == Absent {
				return errs.New(errs.Invalid, "%s %q: to delete what must not exist makes no sense", kind, name)
			}
		}
	}
	if sum > MaxSum {
		return errs.New(errs.Invalid, "a write has %d bytes of data, more than %d", sum, MaxSum)
	}
	return nil
}

// Target returns what op is about.
func Target(op Op) (Kind, string, Revision) {
	switch o := op.(type) {
	case Put:
		return o.Kind, o.Name, o.Expect
	case Delete:
		return o.Kind, o.Name, o.Expect
	case Check:
		return o.Kind, o.Name, o.Expect
	}
	return "", "", Absent
}

// Meets returns nil if a record at revision have (Absent for none) meets op's expectation, and Conflict or Exists if not.
func Meets(op Op, have Revision) error {
	kind, name, expect := Target(op)
	switch {
	case expect == have:
		return nil
	case expect == Any:
		if _, check := op.(Check); check && have == Absent {
			return errs.New(errs.Conflict, "%s %q does not exist", kind, name)
		}
		return nil
	case expect == Absent:
		code := errs.Conflict
		if _, put := op.(Put); put {
			code = errs.Exists
		}
		return errs.New(code, "%s %q exists", kind, name)
	case have == Absent:
		return errs.New(errs.Conflict, "%s %q does not exist any more", kind, name)
	}
	return errs.New(errs.Conflict, "%s %q was changed by somebody else (revision %d, expected %d)", kind, name, have, expect)
}

// Missing is the error of Get for a record that does not exist.
func Missing(kind Kind, name string) error {
	return errs.New(errs.NotFound, "%s %q does not exist", kind, name)
}

// CheckLease returns Invalid unless a lease may have this name, holder and ttl.
func CheckLease(name, holder string, ttl time.Duration) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := CheckName(holder); err != nil {
		return err
	}
	if ttl <= 0 {
		return errs.New(errs.Invalid, "lease %q: a life of %s is not positive", name, ttl)
	}
	return nil
}

// HeldBy is the error of Acquire for a lease that another has, until expires.
func HeldBy(l Lease, now time.Time) error {
	return errs.New(errs.Conflict, "%q is held by %s for another %s", l.Name, l.Holder, l.Expires.Sub(now).Round(time.Second))
}

// LostLease is the error of Renew for a lease that was lost.
func LostLease(l Lease) error {
	return errs.New(errs.Conflict, "%q is not held by %s any more", l.Name, l.Holder)
}

// CheckWatch returns Invalid unless the kinds can be watched.
func CheckWatch(kinds []Kind) error {
	if len(kinds) == 0 {
		return errs.New(errs.Invalid, "a watch needs at least one kind")
	}
	for _, k := range kinds {
		if k == AuditKind {
			continue
		}
		if err := CheckKind(k); err != nil {
			return err
		}
	}
	return nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
