// Package dolibarrtest runs real PHP and a real MariaDB for tests of what works on a Dolibarr: the stand-in, and real releases where the
// environment names some. Nothing listens but on loopback, nothing runs as root, and everything lies in folders that the test removes.
package dolibarrtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// needed are the programs, and where Debian has them from.
func needed() map[string]string {
	return map[string]string{"php": "php-cli php-mysql php-gd php-intl php-xml php-zip php-curl php-mbstring", "mariadbd": "mariadb-server",
		"mariadb-install-db": "mariadb-server", "mariadb": "mariadb-client"}
}

// user is who PHP and the database run as: another than root when the test is root, because root may write everything.
const user = 33

// DB is a MariaDB of a test.
type DB struct {
	// Port is where it listens on 127.0.0.1.
	Port string
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
}

// credential makes a command run as somebody who is not root.
func credential() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: user, Gid: user, NoSetGroups: true}
	}
	return attr
}

// own gives a file to that user.
func own(t testing.TB, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Lchown(path, user, user); err != nil {
		t.Fatal(err)
	}
}

// StartDB starts a database server. A machine without one, or without PHP, fails the test and is told what to install.
func StartDB(t testing.TB) *DB {
	t.Helper()
	for program, packages := range needed() {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed: make test-needs, or apt-get install --no-install-recommends %s", program, packages)
		}
	}
	parent := "" // a folder in memory, where there is one: the installer does little but sync
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "infractl-db-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	own(t, dir)
	db := &DB{t: t, dir: dir, Port: freePort(t)}
	install := exec.Command("mariadb-install-db", "--no-defaults", "--datadir="+filepath.Join(dir, "data"), "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=16M")
	install.SysProcAttr = credential()
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	db.Start()
	t.Cleanup(db.Stop)
	return db
}

// Start starts the server that Stop stopped, on the same port.
func (db *DB) Start() {
	db.t.Helper()
	log, err := os.Create(filepath.Join(db.dir, "log"))
	if err != nil {
		db.t.Fatal(err)
	}
	defer log.Close()
	db.cmd = exec.Command("mariadbd", "--no-defaults", "--datadir="+filepath.Join(db.dir, "data"), "--socket="+db.socket(),
		"--pid-file="+filepath.Join(db.dir, "pid"), "--bind-address=127.0.0.1", "--port="+db.Port, "--skip-name-resolve", "--skip-log-bin",
		"--performance-schema=OFF", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--character-set-server=utf8mb4",
		"--collation-server=utf8mb4_unicode_ci")
	db.cmd.SysProcAttr = credential()
	db.cmd.Stdout, db.cmd.Stderr = log, log
	if err := db.cmd.Start(); err != nil {
		db.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := db.query("SELECT 1"); err == nil {
			return
		} else if time.Now().After(end) {
			text, _ := os.ReadFile(filepath.Join(db.dir, "log"))
			db.t.Fatalf("the database does not start: %v\n%s", err, text)
		}
	}
}

// Stop ends the server and waits for it.
func (db *DB) Stop() {
	if db.cmd == nil || db.cmd.ProcessState != nil {
		return
	}
	_ = db.cmd.Process.Signal(syscall.SIGTERM)
	_ = db.cmd.Wait()
}

func (db *DB) socket() string { return filepath.Join(db.dir, "s") }

func (db *DB) query(sql string) (string, error) {
	cmd := exec.Command("mariadb", "--no-defaults", "--socket="+db.socket(), "--user=root", "--batch", "--skip-column-names")
	cmd.Stdin = strings.NewReader(sql)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", &queryError{sql, strings.TrimSpace(stderr.String())}
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

type queryError struct{ sql, text string }

func (e *queryError) Error() string { return e.text + ": " + e.sql }

// Query runs statements as root and returns what they print, columns parted by tabs.
func (db *DB) Query(sql string) string {
	db.t.Helper()
	out, err := db.query(sql)
	if err != nil {
		db.t.Fatal(err)
	}
	return out
}

// Create makes an empty database with a user of the same name that has all rights on it.
func (db *DB) Create(name, password string) {
	db.t.Helper()
	db.Query("DROP DATABASE IF EXISTS " + name + "; CREATE DATABASE " + name + " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;" +
		"CREATE OR REPLACE USER " + name + "@'%' IDENTIFIED BY '" + password + "'; GRANT ALL ON " + name + ".* TO " + name + "@'%';")
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// Hold takes a named lock of the server in a connection of its own, until the test ends.
func (db *DB) Hold(name string) {
	db.t.Helper()
	cmd := exec.Command("mariadb", "--no-defaults", "--socket="+db.socket(), "--user=root", "--batch", "--skip-column-names", "--unbuffered")
	in, err := cmd.StdinPipe()
	if err != nil {
		db.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		db.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		db.t.Fatal(err)
	}
	db.t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := in.Write([]byte("SELECT GET_LOCK('" + name + "', 5);\n")); err != nil {
		db.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil { // the answer: the lock is ours
		db.t.Fatal(err)
	}
}
