package dolibarr_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/dolibarrtest"
)

type (
	site  = dolibarrtest.Site
	input = dolibarr.InstallInput
)

// lockedText is what a locked installer prints before it ends with 0.
const lockedText = "<?php print 'The install/upgrade pages have been disabled for security'; exit;"

// TestInstallRefuses has every case in which the installer would end with 0, or do harm.
func TestInstallRefuses(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	tree := dolibarrtest.Trees(t, "19.0.4")[0]
	for name, c := range map[string]struct {
		prepare func(t *testing.T, s *site, in *input)
		want    string
	}{
		"locked installer": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/step1.php", lockedText)
		}, "the installer is locked"},
		"lock in the code": {func(t *testing.T, s *site, _ *input) { s.Replace("html/install.lock", "") }, "install.lock stands in the document root"},
		"conf.php refused": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/step5.php", "<?php print 'The configuration file is not writable.'; exit;")
		}, "conf.php cannot be written"},
		"conf folder read only": {func(t *testing.T, s *site, _ *input) { chmod(t, s, "html/conf", 0o500) }, "html/conf is no folder that the user"},
		"documents read only":   {func(t *testing.T, s *site, _ *input) { chmod(t, s, "documents", 0o500) }, "documents is no folder that the user"},
		"second step makes nothing": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/step2.php", "<?php exit;")
		}, "step2 made 0 tables"},
		"second step leaves one out": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/mysql/tables/llx_late.sql", "create table llx_late\n(\n  rowid integer\n)ENGINE=innodb;\n")
			text := strings.Replace(s.Read("html/install/step2.php"), "foreach (glob($pattern) as $file) {", "foreach (glob($pattern) as $file) { if (strpos($file, 'late')) continue;", 1)
			s.Replace("html/install/step2.php", text)
		}, "without llx_late"},
		"last step does nothing": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/step5.php", "<?php exit;")
		}, "the installer ended well, but install.lock was not written"},
		"forced installation": {func(t *testing.T, s *site, _ *input) {
			s.Replace("html/install/install.forced.php", "<?php")
		}, "install.forced.php is present"},
		"no installer": {func(t *testing.T, s *site, _ *input) {
			remove(t, s, "html/install/step2.php")
		}, "the installer is missing"},
		"no Dolibarr": {func(t *testing.T, s *site, _ *input) {
			remove(t, s, "html/filefunc.inc.php")
		}, "there is no Dolibarr"},
		"wrong password of the database": {func(t *testing.T, s *site, _ *input) {
			s.Secret("db", "notThePassword1234567890")
		}, "the database refuses the user"},
		"no database": {func(t *testing.T, s *site, _ *input) {
			s.DB.Query("DROP DATABASE " + s.Database)
		}, "there is no database"},
		"no server": {func(t *testing.T, s *site, in *input) {
			in.DBPort = "1"
		}, "does not answer"},
		"database of utf8mb3": {func(t *testing.T, s *site, _ *input) {
			s.DB.Query("ALTER DATABASE " + s.Database + " CHARACTER SET utf8mb3")
		}, "the database was created as utf8mb3"},
		"database of latin1": {func(t *testing.T, s *site, _ *input) {
			s.DB.Query("ALTER DATABASE " + s.Database + " CHARACTER SET latin1")
		}, "the database was created as latin1"},
		"user without rights": {func(t *testing.T, s *site, _ *input) {
			s.DB.Query("REVOKE CREATE ON " + s.Database + ".* FROM " + s.Database + "@'%'")
		}, "step2: a statement failed"},
		"somebody's tables": {func(t *testing.T, s *site, _ *input) {
			s.DB.Query("CREATE TABLE " + s.Database + ".wp_posts (id integer)")
		}, "holds 1 tables that no installation of infractl has made"},
		"documents of an installed one": {func(t *testing.T, s *site, _ *input) {
			s.Replace("documents/install.lock", "")
		}, "its database is empty"},
		"at work already": {func(t *testing.T, s *site, _ *input) {
			hold(t, s)
		}, "another run is at work"},
		"missing secret": {func(t *testing.T, s *site, _ *input) { s.Secret("unique-id", "") }, "the secret unique-id cannot be read"},
		"secret with a quote": {func(t *testing.T, s *site, _ *input) {
			s.Secret("admin", "it's-a-secret-of-old")
		}, "the secret admin is not of 12 to 128 letters and digits"},
		"url with a path": {func(t *testing.T, s *site, in *input) {
			in.URL = "https://acme.example.test/dolibarr"
		}, "bad value of url"},
		"url with a quote": {func(t *testing.T, s *site, in *input) {
			in.URL = "https://acme.example.test';phpinfo();//"
		}, "bad value of url"},
		"no url":            {func(t *testing.T, s *site, in *input) { in.URL = "" }, "missing value of url"},
		"login with spaces": {func(t *testing.T, s *site, in *input) { in.AdminLogin = "the boss" }, "bad value of admin_login"},
		"company with a tag": {func(t *testing.T, s *site, in *input) {
			in.Company = "<script>"
		}, "bad value of company"},
		"unknown time zone": {func(t *testing.T, s *site, in *input) { in.Timezone = "Europe/Atlantis" }, "unknown time zone"},
		"unknown country":   {func(t *testing.T, s *site, in *input) { in.Country = "ZZ" }, "unknown country ZZ"},
		"unknown module":    {func(t *testing.T, s *site, in *input) { in.Modules = []string{"nonsense"} }, "there is no module nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			s := dolibarrtest.NewSite(t, db, tree)
			in := s.Input()
			c.prepare(t, s, &in)
			input := struct {
				dolibarr.InstallInput
				Wait int `json:"wait"`
			}{in, 0}
			_, _, out, err := s.Run(dolibarr.VerbInstall, input)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q\n%s", err, c.want, out)
			}
		})
	}
}

// TestHalfDoneIsRecognised has an installation that fails in the middle, and the way out.
func TestHalfDoneIsRecognised(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	s := dolibarrtest.NewSite(t, db, dolibarrtest.Trees(t, "19.0.4")[0])
	good := s.Read("html/install/step5.php")
	s.Replace("html/install/step5.php", "<?php exit(255);")
	if answer, _, _, err := s.Run(dolibarr.VerbInstall, s.Input()); err == nil || answer.HalfDone {
		t.Fatalf("%v, half done %v: the first run only fails", err, answer.HalfDone)
	}
	s.Replace("html/install/step5.php", good)
	if answer, _, _, err := s.Run(dolibarr.VerbInstall, s.Input()); err == nil || !answer.HalfDone {
		t.Fatalf("%v, half done %v", err, answer.HalfDone)
	}
	db.Create(s.Database, dolibarrtest.Secrets()["db"])
	if answer, _, out, err := s.Run(dolibarr.VerbInstall, s.Input()); err != nil || answer.Existed {
		t.Fatalf("%v, existed %v\n%s", err, answer.Existed, out)
	}
}

// TestStatusTellsTheTruth has what a login page does not: versions apart, a refused character set, no database.
func TestStatusTellsTheTruth(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	s := dolibarrtest.NewSite(t, db, dolibarrtest.Trees(t, "19.0.4")[0])
	if _, _, _, err := s.Run(dolibarr.VerbStatus, struct{}{}); err == nil || !strings.Contains(err.Error(), "conf.php names no database") {
		t.Errorf("before the installation: %v", err)
	}
	if _, _, out, err := s.Run(dolibarr.VerbInstall, s.Input()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	code, conf := s.Read("html/filefunc.inc.php"), s.Read("html/conf/conf.php")
	for version, want := range map[string]dolibarr.Answer{"20.0.0": {UpgradeNeeded: true}, "19.0.10": {UpgradeNeeded: true}, "18.0.9": {Downgraded: true}, "19.0.4": {}} {
		s.Replace("html/filefunc.inc.php", strings.Replace(code, "'19.0.4'", "'"+version+"'", 1))
		got, _, _, err := s.Run(dolibarr.VerbStatus, struct{}{})
		if err != nil || got.UpgradeNeeded != want.UpgradeNeeded || got.Downgraded != want.Downgraded || got.Version != version || got.BaseVersion != "19.0.4" {
			t.Errorf("code of %s: %+v, %v", version, got, err)
		}
		if version == "19.0.4" {
			continue
		}
		if _, _, _, err := s.Run(dolibarr.VerbConfigure, dolibarr.InstallInput{URL: "https://x.example.test"}); err == nil || !strings.Contains(err.Error(), "is of version") {
			t.Errorf("configure with code of %s: %v", version, err)
		}
		if _, _, _, err := s.Run(dolibarr.VerbInstall, s.Input()); !strings.Contains(errs.HintOf(err), "nothing was changed") {
			t.Errorf("install with code of %s: %v", version, err)
		}
	}
	s.Replace("html/filefunc.inc.php", code)
	s.Replace("html/conf/conf.php", strings.ReplaceAll(conf, "'utf8mb4'", "'utf8mb3'"))
	if got, _, _, err := s.Run(dolibarr.VerbStatus, struct{}{}); err != nil || !got.CharsetRefused || got.Charset != "utf8mb3" {
		t.Errorf("refused character set: %+v, %v", got, err)
	}
	s.Replace("html/conf/conf.php", conf)
	db.Stop()
	if _, _, _, err := s.Run(dolibarr.VerbStatus, struct{}{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("without a database: %v", err)
	}
	if _, _, out, err := s.Run("nonsense", struct{}{}); err == nil || !strings.Contains(out, "unknown verb nonsense") {
		t.Errorf("unknown verb: %v", err)
	}
}

func chmod(t *testing.T, s *site, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(s.Dir, name), mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s *site, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.Dir, name)); err != nil {
		t.Fatal(err)
	}
}

// hold takes the lock that one run has, in the database, until the test ends.
func hold(t *testing.T, s *site) {
	t.Helper()
	s.DB.Hold("infractl." + s.Database)
}
