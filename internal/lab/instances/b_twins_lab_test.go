//go:build lab

package instances

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What differs between any two instances that were made at two moments: times, hashes of passwords, secrets, names, and the numbers of
// rows that are written anew. A constant's secret is all of its value: Dolibarr encrypts some of them with the instance's unique id.
var (
	timeForm  = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
	hashForm  = regexp.MustCompile(`\$2y\$[^']*`)
	longForm  = regexp.MustCompile(`[A-Za-z0-9]{20,}`)
	rowForm   = regexp.MustCompile("^(INSERT INTO `llx_const` VALUES \\()\\d+,")
	countForm = regexp.MustCompile(` AUTO_INCREMENT=\d+`)
	constForm = regexp.MustCompile(`('(?:CRON_KEY|MAIN_SECURITY_SALT|INFRACTL_IDENTITY)',\d+,')([^']+)'`)
	// ended is the moment before which a user's sessions are void: the warm one's administrator got a password of their own.
	ended = regexp.MustCompile("^(INSERT INTO `llx_user` VALUES \\(1,.*,)(?:NULL|'TIME')\\);")
)

// picture is an instance's database, documents and configuration, without what two instances must not share; secrets is what was taken out.
func picture(t *testing.T, name string) (lines, secrets []string) {
	t.Helper()
	text := infractl(t, 0, "instance", "exec", name, "--part", "db", "-u", "mysql", "-n", "--", "mariadb-dump", "--skip-comments", "--skip-dump-date",
		"--skip-extended-insert", "--order-by-primary", "dolibarr")
	if strings.Count(text, "CREATE TABLE") < 5 {
		t.Fatalf("the dump of %s has %d tables", name, strings.Count(text, "CREATE TABLE"))
	}
	text += infractl(t, 0, "instance", "exec", name, "-n", "--", "sh", "-c",
		"cd /var/www && find documents html/custom | sort; cat html/conf/conf.php; stat -c '%a %u %n' html/conf/conf.php documents")
	for line := range strings.Lines(text) {
		line = timeForm.ReplaceAllString(strings.ReplaceAll(strings.TrimSpace(line), name, "NAME"), "TIME")
		secrets = append(secrets, hashForm.FindAllString(line, -1)...)
		line = hashForm.ReplaceAllString(line, "HASH")
		if m := constForm.FindStringSubmatch(line); m != nil {
			secrets = append(secrets, m[2])
			line = constForm.ReplaceAllString(line, "${1}SECRET'")
		}
		if strings.Contains(line, "_db_pass") || strings.Contains(line, "unique_id") {
			secrets = append(secrets, longForm.FindAllString(line, -1)...)
			line = longForm.ReplaceAllString(line, "SECRET")
		}
		line = countForm.ReplaceAllString(rowForm.ReplaceAllString(line, "${1}"), "")
		lines = append(lines, ended.ReplaceAllString(line, "${1}ENDED);"))
	}
	return lines, secrets
}

// TestAWarmInstanceIsAColdOneButForItsSecrets compares both, and both with the template that may have left something of its own.
func TestAWarmInstanceIsAColdOneButForItsSecrets(t *testing.T) {
	create(t, "twina", "--company", "Twins", "--cold")
	create(t, "twinb", "--company", "Twins")
	cold, coldSecrets := picture(t, "twina")
	warm, warmSecrets := picture(t, "twinb")
	t.Logf("%d lines, %d secrets", len(warm), len(warmSecrets))
	missing := func(from, in []string) (out []string) {
		for _, line := range from {
			if !slices.Contains(in, line) {
				out = append(out, line)
			}
		}
		return out
	}
	for what, list := range map[string][]string{"only a cold one has": missing(cold, warm), "only a warm one has": missing(warm, cold)} {
		for _, line := range list[:min(len(list), 20)] {
			t.Errorf("%s: %.300s", what, line)
		}
	}
	if len(coldSecrets) < 4 || len(warmSecrets) != len(coldSecrets) {
		t.Errorf("%d and %d secrets were seen", len(coldSecrets), len(warmSecrets))
	}
	for _, s := range warmSecrets {
		if slices.Contains(coldSecrets, s) {
			t.Errorf("both have the secret that begins with %.6s", s)
		}
	}
	for _, name := range []string{"twina", "twinb"} {
		if err := fleet.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
}
