package standin_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/dolibarr/standin"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/dolibarrtest"
)

func TestArchiveIsTheSameEveryTime(t *testing.T) {
	var one, two, other bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		if err := standin.Archive(w, "19.0.4"); err != nil {
			t.Fatal(err)
		}
	}
	if err := standin.Archive(&other, "19.0.5"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) || bytes.Equal(one.Bytes(), other.Bytes()) {
		t.Error("the same version gives other bytes, or another version the same")
	}
	for _, version := range []string{"19", "9.0.0", ""} {
		if err := standin.Archive(&other, version); !errs.Is(err, errs.Invalid) {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

// upgraded is a site of one version whose code is then another's.
type upgraded struct {
	*dolibarrtest.Site
	t    *testing.T
	from string
}

// installed installs a version and puts the code of another beneath it.
func installed(t *testing.T, db *dolibarrtest.DB, from, to string) *upgraded {
	t.Helper()
	s := dolibarrtest.NewSite(t, db, dolibarrtest.Trees(t, from)[0])
	if _, _, out, err := s.Run(dolibarr.VerbInstall, s.Input()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tree, err := standin.Tree(to)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range tree {
		name = strings.Replace(name, "htdocs/", "html/", 1)
		if strings.HasPrefix(name, "html/conf") || strings.HasPrefix(name, "html/custom") {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.Dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		s.Replace(name, text)
	}
	return &upgraded{s, t, from}
}

// run runs a script of the installer and returns its exit code and output.
func (u *upgraded) run(args ...string) (int, string) {
	u.t.Helper()
	cmd := u.Command("", nil)
	cmd.Args, cmd.Dir, cmd.Stdin = append([]string{"php"}, args...), filepath.Join(u.Dir, "html/install"), nil
	out, err := cmd.CombinedOutput()
	if _, ok := err.(*exec.ExitError); err != nil && !ok { //nolint:errorlint // it is made by exec itself
		u.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// hop runs one hop with what comes last, and returns the three exit codes as one text, and all output.
func (u *upgraded) hop(from, to int, last ...string) (codes, output string) {
	a, b := fmt.Sprintf("%d.0.0", from), fmt.Sprintf("%d.0.0", to)
	for i, args := range [][]string{{"upgrade.php", a, b}, {"upgrade2.php", a, b}, append([]string{"step5.php", a, b}, last...)} {
		code, out := u.run(args...)
		codes += strings.Repeat("/", min(i, 1)) + fmt.Sprint(code)
		output += out
	}
	return codes, output
}

func (u *upgraded) unlock() {
	if err := os.WriteFile(filepath.Join(u.Dir, "documents/upgrade.unlock"), nil, 0o666); err != nil {
		u.t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(u.Dir, "documents"), 0o777); err != nil { // the folder is another user's
		u.t.Fatal(err)
	}
}

func (u *upgraded) unlocked() bool {
	_, err := os.Stat(filepath.Join(u.Dir, "documents/upgrade.unlock"))
	return err == nil
}

// missing are the hops whose change of the schema is not there.
func (u *upgraded) missing(from, to int) (list []string) {
	for n := from + 1; n <= to; n++ {
		sql := "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = '%s' AND table_name = 'llx_societe' AND column_name = 'standin_%d'"
		if u.DB.Query(fmt.Sprintf(sql, u.Database, n)) == "0" {
			list = append(list, fmt.Sprint(n))
		}
	}
	return list
}

// TestUpgradeContract has the cases that real releases were seen with, deceptive exit codes first.
func TestUpgradeContract(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	final := func(t *testing.T, u *upgraded, version string, missing ...string) {
		t.Helper()
		if got := u.Const("MAIN_VERSION_LAST_UPGRADE"); got != version {
			t.Errorf("the base says %q, want %q", got, version)
		}
		if got := u.missing(16, 19); strings.Join(got, " ") != strings.Join(missing, " ") {
			t.Errorf("missing hops %q, want %q", got, missing)
		}
	}
	t.Run("hop by hop is right", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		u.unlock()
		for n := 16; n < 19; n++ {
			last := []string{"auto", fmt.Sprintf("upgrade_%d.0.0", n+1)}
			if n == 18 {
				last = nil
			}
			codes, out := u.hop(n, n+1, last...)
			if codes != "0/0/0" || !strings.Contains(out, "Script processing OK") || !strings.Contains(out, "Migration finished") {
				t.Fatalf("hop %d: %s\n%s", n, codes, out)
			}
			if u.unlocked() != (n < 18) {
				t.Errorf("after hop %d unlocked = %v", n, u.unlocked())
			}
		}
		final(t, u, "19.0.4")
		if n := db.Query("SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = '" + u.Database + "' AND column_name LIKE 'idpers_'"); n != "0" {
			t.Errorf("idpers: %s columns are left", n)
		}
		if u.Const("STANDIN_DATA_17")+u.Const("STANDIN_DATA_18")+u.Const("STANDIN_DATA_19") != "donedonedone" {
			t.Error("a migration of data is missing")
		}
		address := u.Web()
		if code, page := u.Page(address + "/index.php"); code != 200 || !strings.Contains(page, "@ 19.0.4</title>") {
			t.Errorf("login page: %d %s", code, page)
		}
	})
	t.Run("the last step after every hop ends it after the first", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		u.unlock()
		for n := 16; n < 19; n++ {
			if codes, out := u.hop(n, n+1); codes != "0/0/0" || strings.Contains(out, "disabled for security") != (n > 16) {
				t.Errorf("hop %d: %s\n%s", n, codes, out)
			}
		}
		final(t, u, "19.0.4", "18", "19")
	})
	t.Run("one jump leaves out what lies between", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		u.unlock()
		if codes, _ := u.hop(16, 19); codes != "0/0/0" {
			t.Errorf("codes %s", codes)
		}
		final(t, u, "19.0.4", "18")
		if u.Const("STANDIN_DATA_18") != "" {
			t.Error("the migration of data of 18 ran")
		}
	})
	t.Run("locked, nothing happens", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		if codes, out := u.hop(16, 17); codes != "0/0/0" || !strings.Contains(out, "disabled for security") {
			t.Errorf("%s\n%s", codes, out)
		}
		final(t, u, "", "17", "18", "19")
	})
	t.Run("no file for the pair", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		u.unlock()
		for _, pair := range [][2]string{{"30.0.0", "31.0.0"}, {"16", "17.17.0"}} {
			if code, out := u.run("upgrade.php", pair[0], pair[1]); code != 1 || !strings.Contains(out, "No migration file found") {
				t.Errorf("%v: %d %s", pair, code, out)
			}
		}
	})
	t.Run("a user without ALTER", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		u.unlock()
		db.Query("REVOKE ALTER ON " + u.Database + ".* FROM " + u.Database + "@'%'")
		if codes, out := u.hop(16, 17); codes != "1/0/0" || !strings.Contains(out, "Error DB_ERROR_") {
			t.Errorf("%s\n%s", codes, out)
		}
	})
	t.Run("a refused character set", func(t *testing.T) {
		for to, c := range map[string]struct {
			major int
			want  string
		}{"19.0.4": {19, "19.0.4"}, "22.0.4": {22, ""}} {
			u := installed(t, db, "16.0.3", to)
			u.Replace("html/conf/conf.php", strings.ReplaceAll(u.Read("html/conf/conf.php"), "'utf8mb4'", "'utf8mb3'"))
			u.unlock()
			for n := 16; n < c.major; n++ {
				last := []string{"auto", fmt.Sprintf("upgrade_%d.0.0", n+1)}
				if n+1 == c.major {
					last = nil
				}
				if codes, _ := u.hop(n, n+1, last...); codes != "0/0/0" {
					t.Errorf("%s: hop %d: %s", to, n, codes)
				}
			}
			if got := u.Const("MAIN_VERSION_LAST_UPGRADE"); got != c.want {
				t.Errorf("%s: the base says %q, want %q", to, got, c.want)
			}
			if code, page := u.Page(u.Web() + "/index.php"); code != 200 || !strings.Contains(page, "Failed to force character") {
				t.Errorf("%s: page %d %s", to, code, page)
			}
		}
	})
	t.Run("a dump over a changed base fails half-way", func(t *testing.T) {
		u := installed(t, db, "16.0.3", "19.0.4")
		dump := u.Dump()
		u.unlock()
		for n := 16; n < 19; n++ {
			u.hop(n, n+1, "auto", fmt.Sprintf("upgrade_%d.0.0", n+1))
		}
		if err := u.Load(dump); err == nil {
			t.Error("the dump was loaded")
		}
		db.Create(u.Database, dolibarrtest.Secrets()["db"])
		if err := u.Load(dump); err != nil {
			t.Errorf("into an empty base: %v", err)
		}
	})
}

// TestPagesDeceive has the answers of the pages when something is wrong.
func TestPagesDeceive(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	type page struct {
		code int
		text string
	}
	look := func(u *upgraded) page {
		code, text := u.Page(u.Web() + "/index.php")
		return page{code, text}
	}
	if got := look(installed(t, db, "16.0.3", "19.0.4")); got.code != 302 {
		t.Errorf("newer code: %+v", got)
	}
	if got := look(installed(t, db, "19.0.4", "19.0.5")); got.code != 302 {
		t.Errorf("code newer by a patch: %+v", got)
	}
	if got := look(installed(t, db, "19.0.4", "16.0.3")); got.code != 200 || !strings.Contains(got.text, "@ 16.0.3</title>") {
		t.Errorf("older code: %+v", got)
	}
	locked := installed(t, db, "19.0.4", "19.0.4")
	address := locked.Web()
	if code, text := locked.Page(address + "/install/index.php"); code != 200 || !strings.Contains(text, "disabled for security") {
		t.Errorf("locked installer: %d %s", code, text)
	}
	if code, text := locked.Page(address + "/api/index.php/status"); code != 200 || !strings.Contains(text, "Module Api must be enabled") {
		t.Errorf("API that is off: %d %s", code, text)
	}
	old := installed(t, db, "16.0.3", "16.0.3")
	oldAddress := old.Web()
	db.Stop()
	for at, want := range map[string]int{address: 202, oldAddress: 500} {
		if code, _ := locked.Page(at + "/index.php"); code != want {
			t.Errorf("without a database: %d, want %d", code, want)
		}
	}
	db.Start()
}
