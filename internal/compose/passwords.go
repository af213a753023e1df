package compose

import (
	"bytes"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/types"
)

var (
	secretName = regexp.MustCompile(`(?i)(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY|CREDENTIALS?)`)
	secretArg  = regexp.MustCompile(`(?i)(password|passwd|passphrase|secret|token|api-?key)[ =]+\S+`)
	secretURL  = regexp.MustCompile(`[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s:@]+@`)
)

const secretHint = "infractl secret set NAME; then name it in secrets as external, and its file as /run/secrets/NAME (most images take NAME_FILE or NAME__FILE)"

// plainPasswords refuses secrets that stand in the file, where everybody reads them who may read the site.
func (r *reader) plainPasswords(at string, s *types.ServiceConfig) {
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		value := s.Environment[name]
		where := r.variable(at+"/environment", name)
		if value == nil {
			r.fail(where, "write its value", "variable %s has no value: the environment of the host is never used", name)
			continue
		}
		if isPlainSecret(name, *value) {
			r.fail(where, secretHint, "the value of %s stands in the file in plain text", name)
		}
	}
	for key, words := range map[string][]string{"command": s.Command, "entrypoint": s.Entrypoint} {
		for _, word := range words {
			if secretArg.MatchString(word) || secretURL.MatchString(word) {
				r.fail(at+"/"+key, secretHint, "a password stands in the %s in plain text; everybody on the host sees it", key)
			}
		}
	}
}

// isPlainSecret reports whether a variable is named like a secret and has a value that could be one.
func isPlainSecret(name, value string) bool {
	if secretURL.MatchString(value) {
		return true
	}
	if value == "" || strings.HasPrefix(value, "/run/secrets/") || !secretName.MatchString(name) {
		return false
	}
	upper := strings.ToUpper(name)
	if strings.HasSuffix(upper, "_FILE") || strings.HasSuffix(upper, "_PATH") {
		return false
	}
	// Switches such as MARIADB_RANDOM_ROOT_PASSWORD.
	return !slices.Contains([]string{"true", "false", "yes", "no", "1", "0", "on", "off"}, strings.ToLower(value))
}

// variable is the path of a variable, in a mapping or in a list of NAME=VALUE.
func (r *reader) variable(list, name string) string {
	if at := child(list, name); r.tree.has(at) {
		return at
	}
	for _, s := range r.tree.texts {
		if strings.HasPrefix(s.at, list+"/") && (s.text == name || strings.HasPrefix(s.text, name+"=")) {
			return s.at
		}
	}
	return list
}

// envFile looks into a file of variables as into those of the Compose file.
func (r *reader) envFile(where, source string) {
	clean, ok := r.own(where, "env_file", source)
	if !ok {
		return
	}
	file := path.Join(path.Dir(r.in.File), clean)
	values, err := dotenv.ParseWithLookup(bytes.NewReader(r.in.Files[clean]), func(string) (string, bool) { return "", false })
	if err != nil {
		r.add(Finding{Error, file, 1, 1, "this is no file of variables", "write lines of NAME=VALUE"})
		return
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if isPlainSecret(name, values[name]) {
			r.add(Finding{Error, file, lineOf(r.in.Files[clean], name), 1, "the value of " + name + " stands in the file in plain text", secretHint})
		}
	}
}

func lineOf(content []byte, name string) int {
	for i, line := range bytes.Split(content, []byte("\n")) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimSpace(string(line)), "export "), name) {
			return i + 1
		}
	}
	return 1
}
