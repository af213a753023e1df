package dolibarr_test

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/dolibarrtest"
)

// TestTool runs every verb with real PHP and MariaDB, on the stand-in and on the real releases that the environment names.
func TestTool(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	for _, tree := range dolibarrtest.Trees(t, "16.0.3", "19.0.4", "22.0.4") {
		t.Run(tree.Name, func(t *testing.T) { life(t, db, tree) })
	}
}

// life installs an application and does with it what is done with an instance.
func life(t *testing.T, db *dolibarrtest.DB, tree dolibarrtest.Tree) {
	s := dolibarrtest.NewSite(t, db, tree)
	begin := time.Now()
	watch := watchArguments(s.Dir)
	answer, steps, out, err := s.Run(dolibarr.VerbInstall, s.Input())
	children, leaks := watch()
	if err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	for _, step := range steps {
		t.Logf("%-10s %s", step.Name, step.Duration())
	}
	t.Logf("installed in %s", time.Since(begin).Round(time.Millisecond))
	if children == 0 {
		t.Error("no child process was seen: the look at arguments proves nothing")
	}
	if len(leaks) > 0 {
		t.Errorf("secrets in process lists: %q", leaks)
	}
	if answer.Version != tree.Version || answer.BaseVersion != tree.Version || answer.NotInstalled || answer.Existed || !answer.Locked ||
		answer.Charset != "utf8mb4" || answer.UpgradeNeeded || answer.Downgraded {
		t.Errorf("answer = %+v", answer)
	}
	for _, module := range []string{"Cron", "Facture", "Societe", "User"} {
		if !slices.Contains(answer.Modules, module) {
			t.Errorf("the module %s is not active: %q", module, answer.Modules)
		}
	}
	t.Run("conf.php is hardened", func(t *testing.T) { hardened(t, s) })
	t.Run("the base is as wanted", func(t *testing.T) { wanted(t, s) })
	t.Run("login page, login, password", func(t *testing.T) { passwords(t, s) })
	t.Run("modules", func(t *testing.T) { modules(t, s) })
	t.Run("scheduled jobs", func(t *testing.T) { jobs(t, s) })
	t.Run("installing again keeps everything", func(t *testing.T) { again(t, s) })
	t.Run("another identity", func(t *testing.T) { identity(t, s) })
}

// watchArguments looks at the arguments and the environment of every process that runs the tool of a site, until its result is called.
func watchArguments(dir string) func() (children int, leaks []string) {
	stop, done := make(chan struct{}), make(chan struct{})
	seen, leaks := map[string]bool{}, []string(nil)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, file := range files {
				args, _ := os.ReadFile(file)
				if !strings.Contains(string(args), dir) {
					continue
				}
				env, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
				for _, arg := range strings.Split(string(args), "\x00") {
					plain, _ := base64.StdEncoding.DecodeString(arg) // the input of a child
					env = append(env, plain...)
				}
				if strings.Contains(string(args), "\x00_step\x00") {
					seen[file] = true
				}
				for name, value := range dolibarrtest.Secrets() {
					if strings.Contains(string(args)+string(env), value) {
						leaks = append(leaks, name)
					}
				}
			}
		}
	}()
	return func() (int, []string) {
		close(stop)
		<-done
		return len(seen), leaks
	}
}

func hardened(t *testing.T, s *dolibarrtest.Site) {
	conf := s.Read("html/conf/conf.php")
	for _, line := range []string{
		`$dolibarr_main_url_root = 'https://acme.example.test';`, `$dolibarr_main_prod = '1';`, `$dolibarr_main_db_character_set = 'utf8mb4';`,
		`$dolibarr_main_db_collation = 'utf8mb4_unicode_ci';`, `$dolibarr_main_instance_unique_id = '` + dolibarrtest.Secrets()["unique-id"] + `';`,
		`$dolibarr_main_restrict_os_commands = 'mariadb-dump, mariadb, mysqldump, mysql, pg_dump, pg_restore';`, `$dolibarr_nocsrfcheck = '0';`,
	} {
		if !strings.Contains(conf, line+"\n") {
			t.Errorf("conf.php lacks %s:\n%s", line, conf)
		}
	}
	if strings.Contains(conf, "dolcrypt_key") && !strings.Contains(conf, `$dolibarr_main_dolcrypt_key = '`+dolibarrtest.Secrets()["unique-id"]+`';`) {
		t.Error("stored secrets are encrypted with a key that is not the instance's")
	}
	info, err := os.Stat(filepath.Join(s.Dir, "html/conf/conf.php"))
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("conf.php: %v, %v, want the mode 0400", info.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(s.Dir, "html/conf/*"))
	if len(left) != 1 {
		t.Errorf("beside conf.php there are %q", left)
	}
}

func wanted(t *testing.T, s *dolibarrtest.Site) {
	for name, want := range map[string]string{
		"MAIN_INFO_SOCIETE_NOM": s.Input().Company, "MAIN_LANG_DEFAULT": "fr_FR", "MAIN_SERVER_TZ": "Europe/Paris", "MAIN_SECURITY_HASH_ALGO": "password_hash",
		"MAIN_VERSION_LAST_INSTALL": s.Tree.Version, "MAIN_VERSION_FIRST_INSTALL": s.Tree.Version, "MAIN_VERSION_LAST_UPGRADE": "", "MAIN_NOT_INSTALLED": "",
	} {
		if got := s.Const(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if got := s.Const("MAIN_INFO_SOCIETE_COUNTRY"); !strings.HasPrefix(got, "1:FR:") {
		t.Errorf("country = %q", got)
	}
	if salt := s.Const("MAIN_SECURITY_SALT"); len(salt) != 32 {
		t.Errorf("the salt %q is not random", salt)
	}
	info, err := os.Stat(filepath.Join(s.Dir, "documents/install.lock"))
	if err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("install.lock: %v, %v", info, err)
	}
	if hash := s.DB.Query("SELECT pass_crypted FROM " + s.Database + ".llx_user WHERE login = 'boss'"); !strings.HasPrefix(hash, "$2y$") {
		t.Errorf("hash of the administrator = %q", hash)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "documents/.infractl-install")); err == nil {
		t.Error("the mark of an installation at work is still there")
	}
	if n := s.DB.Query("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '" + s.Database + "' AND table_collation <> 'utf8mb4_unicode_ci'"); n != "0" {
		t.Errorf("%s tables are not utf8mb4_unicode_ci", n)
	}
}

var title = regexp.MustCompile(`<title>[^<]* @ ([0-9]+\.[0-9]+\.[0-9]+)</title>`)

func passwords(t *testing.T, s *dolibarrtest.Site) {
	address, old := s.Web(), dolibarrtest.Secrets()["admin"]
	code, page := s.Page(address + "/index.php")
	if m := title.FindStringSubmatch(page); code != 200 || m == nil || m[1] != s.Tree.Version {
		t.Fatalf("login page: %d, %q", code, m)
	}
	if !s.Login(address, "boss", old) {
		t.Fatal("the administrator's password is refused")
	}
	if s.Login(address, "boss", old+"x") {
		t.Fatal("a wrong password is accepted")
	}
	const fresh = "anotherPassword1234567890"
	s.Secret("admin", fresh)
	if _, _, out, err := s.Run(dolibarr.VerbPassword, dolibarr.PasswordInput{AdminLogin: "boss"}); err != nil {
		t.Fatalf("password: %v\n%s", err, out)
	}
	if s.Login(address, "boss", old) || !s.Login(address, "boss", fresh) {
		t.Error("after the change the old password is accepted, or the new one refused")
	}
	_, _, _, err := s.Run(dolibarr.VerbPassword, dolibarr.PasswordInput{AdminLogin: "nobody"})
	if err == nil || !strings.Contains(err.Error(), "no administrator nobody") || !strings.Contains(errs.HintOf(err), "boss") {
		t.Errorf("password of an unknown administrator: %v", err)
	}
}

func modules(t *testing.T, s *dolibarrtest.Site) {
	for _, c := range []struct {
		name    string
		in      dolibarr.ModulesInput
		has     []string
		hasNot  []string
		refusal string
	}{
		{name: "on, in any spelling", in: dolibarr.ModulesInput{Enable: []string{"API", "modImport"}}, has: []string{"Api", "Import"}},
		{name: "on again", in: dolibarr.ModulesInput{Enable: []string{"api"}}, has: []string{"Api"}},
		{name: "off, one on", in: dolibarr.ModulesInput{Enable: []string{"facture"}, Disable: []string{"api"}}, has: []string{"Facture"}, hasNot: []string{"Api"}},
		{name: "unknown changes nothing", in: dolibarr.ModulesInput{Enable: []string{"api", "nonsense"}}, refusal: "no module nonsense", hasNot: []string{"Api"}},
		{name: "on and off", in: dolibarr.ModulesInput{Enable: []string{"api"}, Disable: []string{"modApi"}}, refusal: "enabled and disabled", hasNot: []string{"Api"}},
		{name: "no name", in: dolibarr.ModulesInput{Enable: []string{"../x"}}, refusal: "bad value of enable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, out, err := s.Run(dolibarr.VerbModules, c.in)
			if c.refusal == "" && err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)) {
				t.Fatalf("error = %v, want %q", err, c.refusal)
			}
			status, _, _, err := s.Run(dolibarr.VerbStatus, struct{}{})
			if err != nil {
				t.Fatal(err)
			}
			for _, module := range c.has {
				if !slices.Contains(status.Modules, module) {
					t.Errorf("%s is off: %q", module, status.Modules)
				}
			}
			for _, module := range c.hasNot {
				if slices.Contains(status.Modules, module) {
					t.Errorf("%s is on: %q", module, status.Modules)
				}
			}
		})
	}
}

func jobs(t *testing.T, s *dolibarrtest.Site) {
	once := map[string]any{"once": true}
	_, _, out, err := s.Run(dolibarr.VerbCron, once)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// 16 on a PHP that is too new: one job fails, the others run.
	tooNew := s.Tree.Real && strings.HasPrefix(s.Tree.Version, "16.")
	if !strings.Contains(out, `"code":0`) && !tooNew {
		t.Errorf("the jobs: %s", out)
	}
	if n := s.DB.Query("SELECT COUNT(*) FROM " + s.Database + ".llx_cronjob WHERE datelastrun IS NOT NULL"); n == "0" {
		t.Errorf("no job ran: %s", out)
	}
	s.Secret("cron-key", "wrongKey1234567890abcdef")
	if _, _, out, _ := s.Run(dolibarr.VerbCron, once); strings.Contains(out, `"code":0`) || !strings.Contains(out, "securitykey is wrong") {
		t.Errorf("with a wrong key: %s", out)
	}
	s.Secret("cron-key", dolibarrtest.Secrets()["cron-key"])
	cmd := s.Command(dolibarr.VerbCron, map[string]any{"every": 86400})
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", filepath.Join(s.Dir, "tool", path.Base(dolibarr.CronFile))}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for !strings.Contains(string(text), "\n") { // the first round is over
		buf := make([]byte, 4096)
		n, err := pipe.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the runner does not end on SIGTERM: %v", err)
	}
}

func again(t *testing.T, s *dolibarrtest.Site) {
	before := s.DB.Query("SELECT pass_crypted FROM " + s.Database + ".llx_user WHERE login = 'boss'")
	s.Secret("admin", "thisOneMustNotBeTaken123")
	answer, _, out, err := s.Run(dolibarr.VerbInstall, s.Input())
	if err != nil || !answer.Existed {
		t.Fatalf("%v, existed %v\n%s", err, answer.Existed, out)
	}
	if after := s.DB.Query("SELECT pass_crypted FROM " + s.Database + ".llx_user WHERE login = 'boss'"); after != before {
		t.Error("the administrator's password was changed")
	}
	s.Secret("admin", dolibarrtest.Secrets()["admin"])
}

// crypt is Dolibarr's encryption of stored values, done here so that a mistake in the tool's own does not prove itself.
func crypt(t *testing.T, key, iv, value string, decrypt bool) string {
	t.Helper()
	padded := make([]byte, 32)
	copy(padded, key)
	block, err := aes.NewCipher(padded)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(value)
	if decrypt {
		if data, err = base64.StdEncoding.DecodeString(value); err != nil {
			t.Fatal(err)
		}
	}
	cipher.NewCTR(block, []byte(iv)).XORKeyStream(data, data)
	if decrypt {
		return string(data)
	}
	return "dolcrypt:AES-256-CTR:" + iv + ":" + base64.StdEncoding.EncodeToString(data)
}

func stored(t *testing.T, s *dolibarrtest.Site, name, key string) string {
	t.Helper()
	parts := strings.SplitN(s.Const(name), ":", 4)
	if len(parts) != 4 || parts[0] != "dolcrypt" {
		return strings.Join(parts, ":")
	}
	return crypt(t, key, parts[2], parts[3], true)
}

// identity is what happens to a copy of a template: other secrets, another address.
func identity(t *testing.T, s *dolibarrtest.Site) {
	old, fresh := dolibarrtest.Secrets()["unique-id"], "copyUniqueId1234567890ab"
	s.DB.Query("INSERT INTO " + s.Database + ".llx_const (name, value, type, visible, note, entity) VALUES ('TRIAL_PASS', '" +
		crypt(t, old, "0123456789abcdef", "a stored password", false) + "', 'chaine', 0, '', 1)")
	salt, before := s.Const("MAIN_SECURITY_SALT"), s.Read("html/conf/conf.php")
	if err := os.WriteFile(filepath.Join(s.Dir, "documents", "dolibarr.log"), []byte("of the template"), 0o666); err != nil {
		t.Fatal(err)
	}
	s.Secret("unique-id", fresh)
	s.Secret("cron-key", "copyCronKey1234567890abc")
	configure := func() {
		t.Helper()
		if _, _, out, err := s.Run(dolibarr.VerbConfigure, dolibarr.InstallInput{URL: "https://copy.example.test/", Company: "Copy"}); err != nil {
			t.Fatalf("configure: %v\n%s", err, out)
		}
		if got := stored(t, s, "TRIAL_PASS", fresh); got != "a stored password" {
			t.Fatalf("the stored password is now %q", got)
		}
	}
	configure()
	conf := s.Read("html/conf/conf.php")
	if !strings.Contains(conf, "'https://copy.example.test'") || !strings.Contains(conf, "'"+fresh+"'") || strings.Contains(conf, old) {
		t.Errorf("conf.php:\n%s", conf)
	}
	if got := stored(t, s, "CRON_KEY", fresh); got != "copyCronKey1234567890abc" {
		t.Errorf("CRON_KEY = %q", got)
	}
	if s.Const("MAIN_SECURITY_SALT") == salt || s.Const("MAIN_INFO_SOCIETE_NOM") != "Copy" || s.Const("MAIN_LANG_DEFAULT") != "fr_FR" {
		t.Error("the salt is the template's, the name is not the copy's, or what was not given is gone")
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "documents", "dolibarr.log")); err == nil {
		t.Error("the template's log is still there")
	}
	salt = s.Const("MAIN_SECURITY_SALT")
	configure() // again: nothing is encrypted twice
	// A crash between the change of the base and that of conf.php.
	s.Replace("html/conf/conf.php", before)
	configure()
	if s.Const("MAIN_SECURITY_SALT") != salt {
		t.Error("the salt of a copy changed without need")
	}
	_, _, out, err := s.Run(dolibarr.VerbCron, map[string]any{"once": true})
	if err != nil || strings.Contains(out, "securitykey is wrong") {
		t.Errorf("with the copy's key: %v %s", err, out)
	}
	dump := s.DB.Query("SELECT GROUP_CONCAT(name, '=', value) FROM " + s.Database + ".llx_const")
	for name, value := range dolibarrtest.Secrets() {
		if strings.Contains(dump, value) {
			t.Errorf("the secret %s of the template is in the base", name)
		}
	}
}

func TestInstallIsRepeatable(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	for _, tree := range dolibarrtest.Trees(t, "19.0.4") {
		if tree.Real {
			continue // the faults are the same, and each costs seconds
		}
		s := dolibarrtest.NewSite(t, db, tree)
		points := 12
		if testing.Short() {
			points = 4
		}
		for n := range points {
			t.Run(fmt.Sprintf("killed after %d ms", n*480/points), func(t *testing.T) { killed(t, s, time.Duration(n*480/points)*time.Millisecond) })
		}
	}
}

// killed breaks an installation off, does what the contract says, and wants a working instance.
func killed(t *testing.T, s *dolibarrtest.Site, after time.Duration) {
	s.DB.Create(s.Database, dolibarrtest.Secrets()["db"])
	_ = os.Remove(filepath.Join(s.Dir, "documents", "install.lock"))
	_ = os.Remove(filepath.Join(s.Dir, "html", "conf", "conf.php"))
	cmd := s.Command(dolibarr.VerbInstall, s.Input())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	answer, _, out, err := s.Run(dolibarr.VerbInstall, s.Input())
	if err != nil && answer.HalfDone {
		s.DB.Create(s.Database, dolibarrtest.Secrets()["db"])
		answer, _, out, err = s.Run(dolibarr.VerbInstall, s.Input())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if answer.BaseVersion != s.Tree.Version || answer.NotInstalled || !answer.Locked || !slices.Contains(answer.Modules, "Facture") {
		t.Errorf("answer = %+v", answer)
	}
	hardened(t, s)
	wanted(t, s)
}
