package lab

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// baseRecipe is what the base image is made from. Mirror, suite and apt settings are the machine's own; none is named here.
type baseRecipe struct {
	suite   string
	sources []string // files
	content string   // of the files, for the hash
	apt     []string // settings, as apt-config prints them
}

// hostRecipe reads suite, package sources and network settings of apt from the machine.
func hostRecipe() (baseRecipe, error) {
	var r baseRecipe
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return r, errs.Wrap("find out the machine's release", err)
	}
	r.suite = osRelease(string(release), "VERSION_CODENAME")
	if r.suite == "" {
		return r, errs.New(errs.Precondition, "the machine's release has no code name").At("/etc/os-release")
	}
	files := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		more, _ := filepath.Glob(pattern)
		files = append(files, more...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && offersSuite(string(data), r.suite) {
			r.sources = append(r.sources, file)
			r.content += string(data)
		}
	}
	if len(r.sources) == 0 {
		return r, errs.New(errs.Precondition, "no package source of %s is configured", r.suite).At("/etc/apt").
			WithHint("the lab's images come from the machine's own Debian mirror")
	}
	settings, err := run(context.Background(), hostEnv(), nil, "apt-config", "dump")
	if err != nil {
		return r, errs.Wrap("read the machine's apt settings", err)
	}
	r.apt = networkSettings(settings.Stdout)
	return r, nil
}

func osRelease(text, key string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// offersSuite reports whether a sources file, in either format, has the main component of the suite. Sources of other
// software, which name neither, are left out.
func offersSuite(text, suite string) bool {
	words := map[string]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		for _, word := range strings.Fields(line) {
			words[word] = true
		}
	}
	return words[suite] && words["main"]
}

// networkSettings picks the settings that decide whether the mirror can be used: proxies, clock checks, retries.
func networkSettings(dump string) []string {
	wanted := []string{"Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv"}
	var found []string
	for scan := bufio.NewScanner(strings.NewReader(dump)); scan.Scan(); {
		line := strings.TrimSpace(scan.Text())
		name, value, _ := strings.Cut(line, " ")
		if slices.ContainsFunc(wanted, func(p string) bool { return strings.HasPrefix(name, p) }) && value != `"";` && value != "" {
			found = append(found, strings.TrimSuffix(line, ";"))
		}
	}
	return found
}

// argv is the bootstrap command that writes the base image's tar.
func (r baseRecipe) argv(target string) []string {
	argv := []string{
		"mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--components=main", "--dpkgopt=force-unsafe-io",
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`,
	}
	for _, dir := range []string{"man", "locale", "doc", "info"} {
		argv = append(argv, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	for _, setting := range r.apt {
		argv = append(argv, "--aptopt="+setting)
	}
	return append(append(argv, r.suite, target), r.sources...)
}

func (r baseRecipe) hash() string {
	h := sha256.New()
	fmt.Fprintln(h, r.argv("-"), r.content)
	return hex.EncodeToString(h.Sum(nil))[:12]
}
