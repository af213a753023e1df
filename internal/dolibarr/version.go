package dolibarr

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Version is a released version of Dolibarr.
type Version struct{ Major, Minor, Patch int }

var versionForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$`)

// ParseVersion reads X.Y.Z; anything else, a major alone or a beta, is Invalid.
func ParseVersion(text string) (Version, error) {
	m := versionForm.FindStringSubmatch(text)
	if m == nil {
		return Version{}, errs.New(errs.Invalid, "%q is no version of Dolibarr", text).WithHint("all three numbers of a release, such as 19.0.4")
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // at most four digits
	}
	return Version{n[0], n[1], n[2]}, nil
}

// String is X.Y.Z.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Compare orders versions by their numbers, not as texts.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// PHP is a version of PHP, major and minor.
type PHP struct{ Major, Minor int }

// String is X.Y.
func (p PHP) String() string { return fmt.Sprintf("%d.%d", p.Major, p.Minor) }

// Compare orders versions of PHP.
func (p PHP) Compare(q PHP) int {
	return cmp.Or(cmp.Compare(p.Major, q.Major), cmp.Compare(p.Minor, q.Minor))
}

// phpRange is what a series of majors supports, from the project's wiki; 15 is not in it, and its official image has 7.4.
type phpRange struct {
	first, last int // majors of Dolibarr
	min, max    PHP
}

var phpRanges = []phpRange{
	{15, 15, PHP{7, 0}, PHP{7, 4}},
	{16, 16, PHP{5, 6}, PHP{8, 1}},
	{17, 17, PHP{7, 0}, PHP{8, 1}},
	{18, 18, PHP{7, 1}, PHP{8, 1}},
	{19, 20, PHP{7, 1}, PHP{8, 2}},
	{21, 21, PHP{7, 1}, PHP{8, 3}},
	{22, 22, PHP{7, 1}, PHP{8, 4}},
	{23, 24, PHP{7, 2}, PHP{8, 5}},
}

// PHPRange returns the lowest and the highest version of PHP that a version of Dolibarr runs on; NotFound when we do not know it.
func PHPRange(v Version) (lowest, highest PHP, err error) {
	for _, r := range phpRanges {
		if v.Major >= r.first && v.Major <= r.last {
			return r.min, r.max, nil
		}
	}
	first, last := phpRanges[0].first, phpRanges[len(phpRanges)-1].last
	return PHP{}, PHP{}, errs.New(errs.NotFound, "it is not known which PHP Dolibarr %s runs on", v).WithHint("known are %d to %d", first, last)
}

// Base is a release of Debian that an image can be made from.
type Base struct {
	// Suite is its code name.
	Suite string
	// PHP is what it carries.
	PHP PHP
	// Image is the name of a base image for engines that have a registry.
	Image string
}

// Bases are the releases of Debian, the preferred one first where several fit: the newest that still gets fixes in full.
func Bases() []Base {
	return []Base{
		{"trixie", PHP{8, 4}, "debian:trixie-slim"},
		{"bookworm", PHP{8, 2}, "debian:bookworm-slim"},
		{"bullseye", PHP{7, 4}, "debian:bullseye-slim"},
	}
}

// ChooseBase returns the base for a version: the one of the code name wish, or the newest that fits where wish is empty. A version that no
// base supports and a wish that does not fit are refused, because an instance on the wrong PHP installs, logs in and fails later.
func ChooseBase(v Version, wish string) (Base, error) { return chooseBase(v, wish, Bases()) }

func chooseBase(v Version, wish string, bases []Base) (Base, error) {
	lowest, highest, err := PHPRange(v)
	if err != nil {
		return Base{}, err
	}
	known, have, fitting := wish == "", []string(nil), []string(nil)
	for _, b := range bases {
		have = append(have, b.Suite+" ("+b.PHP.String()+")")
		known = known || b.Suite == wish
		if b.PHP.Compare(lowest) < 0 || b.PHP.Compare(highest) > 0 {
			continue
		}
		if wish == "" || wish == b.Suite {
			return b, nil
		}
		fitting = append(fitting, b.Suite)
	}
	switch {
	case !known:
		return Base{}, errs.New(errs.Invalid, "unknown base %q", wish).WithHint("one of %s", strings.Join(have, ", "))
	case len(fitting) == 0:
		return Base{}, errs.New(errs.Invalid, "no base has a PHP for Dolibarr %s: it runs on %s to %s", v, lowest, highest).
			WithHint("there are %s", strings.Join(have, ", "))
	}
	return Base{}, errs.New(errs.Invalid, "Dolibarr %s runs on PHP %s to %s, and %s has another", v, lowest, highest, wish).
		WithHint("these fit: %s", strings.Join(fitting, ", "))
}
