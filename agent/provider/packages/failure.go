package packages

import (
	"regexp"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// inUse is part of the message of an error that is about a lock.
const inUse = "dpkg is in use by another program"

// cause is one of the ways in which apt and dpkg fail, told by a text of theirs.
type cause struct {
	text    *regexp.Regexp
	code    errs.Code
	message string // may name groups of the text
	hint    string
}

// causes are asked in this order: a full disk also fails to fetch, and a broken mirror also leaves packages unknown.
func causes() []cause {
	re := regexp.MustCompile
	return []cause{
		{re(`No space left on device|You don't have enough free space in (\S+)|Disk quota exceeded`), errs.Exhausted,
			"the disk is full", "free space on this host (apt-get clean; df -h); it is tried again"},
		{re(`Could not get lock|Unable to acquire the dpkg|Unable to lock (?:directory|the administration)|locked by another process`), errs.Unavailable,
			inUse, "it ends by itself, unattended-upgrades within minutes; look at it with ps, and remove no lock file"},
		{re(`Hash Sum mismatch|File has unexpected size|Mirror sync in progress`), errs.Unavailable,
			"a mirror is being renewed: its files do not match", "try again in some minutes, or set another mirror"},
		{re(`(NO_PUBKEY|not signed|couldn't be verified|cannot be authenticated|no longer has a Release file|does not have a Release file|EXPKEYSIG)`), errs.Denied,
			"a repository is not signed by a key that this host trusts ($1)", "put its key beside its entry in /etc/apt/sources.list.d (Signed-By)"},
		{re(`Release file [^\n]* is (expired|not valid yet)`), errs.Precondition,
			"a repository's signature is $1 by this host's clock", "look at the clock (timedatectl), then at the mirror"},
		{re(`Temporary failure resolving '([^']*)'|Could not resolve '([^']*)'|Could not connect to (\S+)|Cannot initiate the connection to (\S+)|Failed to fetch (\S+)|Unable to connect to (\S+)`),
			errs.Unavailable, "no answer from the mirror $1$2$3$4$5$6", "see that a flow lets this host to its mirror: infractl flows; /etc/apt/sources.list names it"},
		{re(`Unable to locate package (\S+)|Package '?([^' ]+)'? has no installation candidate|Version '[^']*' for '([^']*)' was not found`), errs.NotFound,
			"no repository of this host has the package $1$2$3", "look at its spelling (apt-cache search); some are in a repository that this host does not use"},
		{re(`Package (\S+) is a virtual package provided by`), errs.NotFound, "$1 is a virtual package", "name one of those that provide it"},
		{re(`Packages need to be removed but remove is disabled`), errs.Precondition,
			"it can't be installed beside a package that is there", "apt-get -s install says which one; put that under absent first"},
		{re(`held packages|Held packages were changed`), errs.Precondition, "a held package stands in the way",
			"apt-mark showhold; take it out of hold for this change"},
		{re(`dependency problems prevent removal of (\S+)`), errs.Precondition, "another package needs $1",
			"dpkg --purge says which one; name that under absent as well"},
		{re(`unmet dependencies|Unable to correct problems|Unmet dependencies`), errs.Precondition,
			"what it depends on is not to be had", "apt-get -s install says what is missing"},
		{re(`dpkg was interrupted`), errs.Precondition, "dpkg was interrupted and could not be mended", "run dpkg --configure -a on this host"},
		{re(`Sub-process /usr/bin/dpkg returned an error|Errors were encountered while processing:\s*(\S+)`), errs.Precondition,
			"a script of a package failed $1", "run dpkg --configure -a on this host to see it; what was installed is removed again"},
	}
}

// failure makes an error of what apt or dpkg printed. err is what is known without it.
func failure(what, text string, err error) error {
	detail := strings.Join(last(linesWith(text, "E:", "dpkg: error", "Err:"), 3), "; ")
	for _, c := range causes() {
		at := c.text.FindStringSubmatchIndex(text)
		if at == nil {
			continue
		}
		message := strings.TrimSuffix(string(c.text.ExpandString(nil, c.message, text, at)), " ()")
		e := errs.New(c.code, "%s", strings.TrimSpace(message)).WithHint("%s", c.hint)
		if c.message == inUse {
			if holder := regexp.MustCompile(`process \d+ \([^)]*\)`).FindString(text); holder != "" {
				e.Message += ", " + holder
			}
		}
		if detail != "" {
			e.Message += ": " + detail
		}
		return errs.Wrap(what, e)
	}
	if detail == "" {
		return errs.Wrap(what, err)
	}
	return errs.Wrap(what, errs.New(errs.Internal, "%s", detail).WithHint("/var/log/apt/term.log on this host says more"))
}

func last(list []string, n int) []string { return list[max(0, len(list)-n):] }
