// Package vyos writes and reads configurations of VyOS routers: it renders set commands from a host spec, checks them against
// a schema of the paths that are used here, and reads an existing configuration into the terms of a site file.
//
// The schema is our own, written from the published interface definitions of the three releases; nothing here was tried on a
// running router. docs/support.md says what that means.
package vyos

import (
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Version is a release line of VyOS.
type Version int

// The release lines whose syntax is known.
const (
	V13 Version = 13 // 1.3, equuleus
	V14 Version = 14 // 1.4, sagitta
	V15 Version = 15 // 1.5, circinus
)

// Versions are all of them, oldest first.
func Versions() []Version { return []Version{V13, V14, V15} }

// String returns the platform's name in the site file, such as vyos-1.4.
func (v Version) String() string {
	switch v {
	case V13:
		return "vyos-1.3"
	case V14:
		return "vyos-1.4"
	case V15:
		return "vyos-1.5"
	}
	return "vyos of an unknown release"
}

// ParseVersion reads a platform's name (vyos-1.4) or what a router says of itself (1.4.0, VyOS 1.3.8, 1.5-rolling-202410280006).
// An unknown release is NotFound: half-known syntax is worse than none.
func ParseVersion(text string) (Version, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), "vyos"), "-")
	name = strings.TrimSpace(name)
	for _, v := range Versions() {
		short := strings.TrimPrefix(v.String(), "vyos-")
		if rest, ok := strings.CutPrefix(name, short); ok && (rest == "" || strings.ContainsAny(rest[:1], ".-+ ")) {
			return v, nil
		}
	}
	return 0, errs.New(errs.NotFound, "VyOS %q is no release that is known here", text).WithHint("known are 1.3, 1.4 and 1.5")
}
