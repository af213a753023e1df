package dolibarrtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/dolibarr/standin"
)

// SourceVariable names the variable of the environment with the folder of a real release, or of several in folders of their own.
const SourceVariable = "DOLIBARR_SOURCE_DIR"

// Tree is an application to test on.
type Tree struct {
	// Name is unique: stand-in 19.0.4 or real 19.0.4. Version is what it says it is.
	Name, Version string
	// Real says that it is a release of the project.
	Real bool
	dir  string
}

// Trees are the stand-in in the given versions, and the real releases of the environment.
func Trees(t testing.TB, versions ...string) []Tree {
	t.Helper()
	var list []Tree
	for _, v := range versions {
		dir := filepath.Join(t.TempDir(), v)
		if err := standin.Write(dir, v); err != nil {
			t.Fatal(err)
		}
		list = append(list, Tree{Name: "stand-in " + v, Version: v, dir: dir})
	}
	root := os.Getenv(SourceVariable)
	if root == "" {
		return list
	}
	found, _ := filepath.Glob(filepath.Join(root, "*"))
	for _, dir := range append([]string{root}, found...) {
		code, err := os.ReadFile(filepath.Join(dir, "htdocs", "filefunc.inc.php"))
		if err != nil {
			continue
		}
		if m := regexp.MustCompile(`'DOL_VERSION', '([0-9.]+)'`).FindSubmatch(code); m != nil {
			list = append(list, Tree{Name: "real " + string(m[1]), Version: string(m[1]), Real: true, dir: dir})
		}
	}
	return list
}

// Secrets are what a new site has.
func Secrets() map[string]string {
	return map[string]string{"db": "dbSecret1234567890abcdef", "admin": "adminSecret1234567890abc", "unique-id": "uniqueId1234567890abcdef",
		"cron-key": "cronKey1234567890abcdefg"}
}

// Site is an application with its folders, as its containers would have it.
type Site struct {
	// Dir holds html, documents, scripts, secrets and tool. Database is the name of its database and of the database's user.
	Dir, Database string
	// Tree is what it runs.
	Tree Tree
	// DB is where its database is.
	DB *DB
	t  testing.TB
}

// NewSite lays out an application that is not installed, and an empty database.
func NewSite(t testing.TB, db *DB, tree Tree) *Site {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755) // the other user must get in
	}
	s := &Site{Dir: dir, Tree: tree, DB: db, t: t, Database: "site" + regexp.MustCompile(`\D`).ReplaceAllString(fmt.Sprint(time.Now().UnixNano()), "")}
	for _, part := range []string{"htdocs", "scripts"} {
		target := filepath.Join(dir, strings.Replace(part, "htdocs", "html", 1))
		if exec.Command("cp", "-al", filepath.Join(tree.dir, part), target).Run() == nil {
			continue
		}
		_ = os.RemoveAll(target) // links do not reach another file system
		if out, err := exec.Command("cp", "-a", filepath.Join(tree.dir, part), target).CombinedOutput(); err != nil {
			t.Fatalf("copy the application: %v: %s", err, out)
		}
	}
	if err := os.Symlink("html", filepath.Join(dir, "htdocs")); err != nil {
		t.Fatal(err)
	}
	_ = os.RemoveAll(filepath.Join(dir, "html", "conf"))
	_ = os.RemoveAll(filepath.Join(dir, "html", "custom"))
	for _, name := range []string{"html/conf", "html/custom", "documents", "secrets"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		own(t, filepath.Join(dir, name))
	}
	writeTool(t, filepath.Join(dir, "tool"))
	for name, value := range Secrets() {
		s.Secret(name, value)
	}
	db.Create(s.Database, Secrets()["db"])
	t.Cleanup(func() {
		_, _ = db.query("DROP DATABASE IF EXISTS " + s.Database + "; DROP USER IF EXISTS " + s.Database + "@'%'")
	})
	return s
}

func writeTool(t testing.TB, dir string) {
	t.Helper()
	tool := dolibarr.Tool()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := fs.WalkDir(tool, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tool, name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), data, 0o444)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Secret writes a secret; an empty value removes it.
func (s *Site) Secret(name, value string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, "secrets", name)
	_ = os.Remove(file)
	if value == "" {
		return
	}
	if err := os.WriteFile(file, []byte(value+"\n"), 0o400); err != nil {
		s.t.Fatal(err)
	}
	own(s.t, file)
}

// Replace puts a file of the application aside for another, without touching the tree that it was linked from.
func (s *Site) Replace(name, content string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, name)
	_ = os.Remove(file)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
	own(s.t, file)
}

// Read returns a file of the site, or "".
func (s *Site) Read(name string) string {
	data, _ := os.ReadFile(filepath.Join(s.Dir, name))
	return string(data)
}

// Env are the variables that the tool works with.
func (s *Site) Env() []string {
	return append(os.Environ(), "INFRACTL_HTDOCS="+filepath.Join(s.Dir, "html"), "INFRACTL_DOCUMENTS="+filepath.Join(s.Dir, "documents"),
		"INFRACTL_SECRETS="+filepath.Join(s.Dir, "secrets"), "LC_ALL=C")
}

// Command is the tool with a verb and its input, not yet started. It leads a process group.
func (s *Site) Command(verb string, input any) *exec.Cmd {
	s.t.Helper()
	text, err := json.Marshal(input)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("php", filepath.Join(s.Dir, "tool", "tool.php"), verb)
	cmd.Env, cmd.SysProcAttr, cmd.Stdin = s.Env(), credential(), bytes.NewReader(text)
	return cmd
}

// Run runs a verb and returns its answer, its steps and everything that it printed.
func (s *Site) Run(verb string, input any) (dolibarr.Answer, []dolibarr.Step, string, error) {
	s.t.Helper()
	out, runErr := s.Command(verb, input).CombinedOutput()
	var steps []dolibarr.Step
	answer, err := dolibarr.ReadAnswer(bytes.NewReader(out), func(step dolibarr.Step) { steps = append(steps, step) })
	if (runErr == nil) != (err == nil) {
		s.t.Errorf("%s: exit %v, and the answer is %v:\n%s", verb, runErr, err, out)
	}
	for name := range Secrets() {
		if value := strings.TrimSpace(s.Read("secrets/" + name)); value != "" && bytes.Contains(out, []byte(value)) {
			s.t.Errorf("%s prints the secret %s", verb, name)
		}
	}
	return answer, steps, string(out), err
}

// Input is a complete input of install.
func (s *Site) Input() dolibarr.InstallInput {
	return dolibarr.InstallInput{URL: "https://acme.example.test", DBHost: "127.0.0.1", DBPort: s.DB.Port, DBName: s.Database, DBUser: s.Database,
		AdminLogin: "boss", Company: "Ets. Müller & \"fils\" d'ici", Country: "FR", Language: "fr", Timezone: "Europe/Paris", Modules: []string{"societe", "modFacture"}}
}

// Const returns a constant of the base, of whatever entity.
func (s *Site) Const(name string) string {
	s.t.Helper()
	return s.DB.Query("SELECT value FROM " + s.Database + ".llx_const WHERE name = '" + name + "' ORDER BY entity LIMIT 1")
}

// Web serves the application by PHP's own server until the test ends, and returns its address.
func (s *Site) Web() string {
	s.t.Helper()
	address := "127.0.0.1:" + freePort(s.t)
	cmd := exec.Command("php", "-d", "display_errors=Off", "-S", address, "-t", filepath.Join(s.Dir, "html"))
	cmd.Env, cmd.SysProcAttr, cmd.Dir = append(s.Env(), "PHP_CLI_SERVER_WORKERS=2"), credential(), filepath.Join(s.Dir, "html")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/robots.txt")
		if err == nil {
			_ = resp.Body.Close()
			return "http://" + address
		}
		if time.Now().After(end) {
			s.t.Fatalf("PHP's server does not start: %v", err)
		}
	}
}

// Page gets a page and returns its status and text; redirects are not followed.
func (s *Site) Page(address string) (int, string) {
	s.t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

var token = regexp.MustCompile(`name="token" value="([^"]+)"`)

// Login tries a login as a browser does and reports whether it succeeded.
func (s *Site) Login(address, login, password string) bool {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second, Jar: jar}
	get := func(req *http.Request) string {
		resp, err := client.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		return string(body)
	}
	first, err := http.NewRequest(http.MethodGet, address+"/index.php", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	m := token.FindStringSubmatch(get(first))
	if m == nil {
		s.t.Fatal("the login page has no token")
	}
	form := url.Values{"token": {m[1]}, "actionlogin": {"login"}, "loginfunction": {"loginfunction"}, "username": {login}, "password": {password}}
	second, err := http.NewRequest(http.MethodPost, address+"/index.php?mainmenu=home", strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	second.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	second.Header.Set("Referer", address+"/index.php")
	return !strings.Contains(get(second), `name="actionlogin"`)
}

// Dump returns the base as mariadb-dump writes it for a restore point.
func (s *Site) Dump() string {
	s.t.Helper()
	out, err := exec.Command("mariadb-dump", "--no-defaults", "--socket="+s.DB.socket(), "--user=root", "--single-transaction", "--hex-blob", s.Database).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// Load loads a dump into the base as it stands.
func (s *Site) Load(dump string) error {
	cmd := exec.Command("mariadb", "--no-defaults", "--socket="+s.DB.socket(), "--user=root", s.Database)
	cmd.Stdin = strings.NewReader(dump)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
