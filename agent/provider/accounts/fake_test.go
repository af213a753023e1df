package accounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// shadowTools does to a folder what useradd, usermod and userdel do to a machine.
type shadowTools struct{ root string }

func (s shadowTools) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	argv := cmd.Argv
	name := argv[len(argv)-1]
	switch argv[0] {
	case "useradd":
		return host.Output{}, s.useradd(name, argv)
	case "usermod":
		return host.Output{}, s.usermod(name, argv)
	case "userdel":
		return host.Output{}, s.userdel(name)
	case "chmod":
		return host.Output{}, os.Chmod(s.root+name, 0o755)
	case "visudo":
		data, err := os.ReadFile(s.root + name)
		if err == nil && strings.Contains(string(data), "BROKEN") {
			err = errors.New("syntax error")
		}
		return host.Output{}, err
	case "sudo":
		return host.Output{Stdout: []byte("(ALL : ALL) NOPASSWD: ALL\n")}, nil
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", argv[0])
}

func (s shadowTools) read(name string) []string {
	data, _ := os.ReadFile(s.root + "/etc/" + name)
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func (s shadowTools) write(name string, lines []string) error {
	return os.WriteFile(s.root+"/etc/"+name, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

func value(argv []string, flag string) (string, bool) {
	i := slices.Index(argv, flag)
	if i < 0 {
		return "", false
	}
	return argv[i+1], true
}

func (s shadowTools) useradd(name string, argv []string) error {
	gecos, _ := value(argv, "-c")
	shell, _ := value(argv, "-s")
	password, _ := value(argv, "-p")
	uid := 1000
	for _, line := range s.read("passwd") {
		f := strings.Split(line, ":")
		if f[0] == name {
			return errors.New("user exists")
		}
		if n, _ := strconv.Atoi(f[2]); n >= uid && n < 60000 {
			uid = n + 1
		}
	}
	gid := "100"
	var failed error
	if slices.Contains(argv, "-U") {
		gid = strconv.Itoa(uid)
		failed = s.write("group", append(s.read("group"), name+":x:"+gid+":"))
	}
	home := filepath.Join(s.root, "home", name)
	skeleton, err := os.ReadFile(s.root + "/etc/skel/.profile")
	return errors.Join(failed, err,
		s.write("passwd", append(s.read("passwd"), fmt.Sprintf("%s:x:%d:%s:%s:/home/%s:%s", name, uid, gid, gecos, name, shell))),
		s.write("shadow", append(s.read("shadow"), name+":"+password+":20000:0:99999:7:::")),
		os.MkdirAll(home, 0o755), os.WriteFile(home+"/.profile", skeleton, 0o644))
}

func (s shadowTools) usermod(name string, argv []string) error {
	edit := func(file string, fn func(f []string)) error {
		lines := s.read(file)
		for i, line := range lines {
			if f := strings.Split(line, ":"); f[0] == name {
				fn(f)
				lines[i] = strings.Join(f, ":")
			}
		}
		return s.write(file, lines)
	}
	return errors.Join(edit("passwd", func(f []string) {
		if v, ok := value(argv, "-c"); ok {
			f[4] = v
		}
		if v, ok := value(argv, "-s"); ok {
			f[6] = v
		}
	}), edit("shadow", func(f []string) {
		if v, ok := value(argv, "-e"); ok {
			f[7] = v
		}
		if slices.Contains(argv, "-L") && !strings.HasPrefix(f[1], "!") {
			f[1] = "!" + f[1]
		}
		if slices.Contains(argv, "-U") {
			f[1] = strings.TrimPrefix(f[1], "!")
		}
	}))
}

func (s shadowTools) userdel(name string) error {
	for _, file := range []string{"passwd", "shadow", "group"} {
		lines := slices.DeleteFunc(s.read(file), func(l string) bool {
			f := strings.Split(l, ":")
			gid := 0
			if file == "group" {
				gid, _ = strconv.Atoi(f[2])
			}
			return f[0] == name && (file != "group" || gid >= 1000)
		})
		if err := s.write(file, lines); err != nil {
			return err
		}
	}
	return nil
}

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// machine makes a Debian as its installer leaves it: root, a daemon, one person that infractl did not make.
func machine(t *testing.T) string {
	t.Helper()
	root := folder(t)
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
			"installer:x:1000:1000:Installer,,,:/home/installer:/bin/bash\n",
		"etc/shadow":        "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\ninstaller:$y$j9T$SECRETHASH:20000:0:99999:7:::\n",
		"etc/group":         "root:x:0:\noperator:x:37:\nusers:x:100:\ninstaller:x:1000:\n",
		"etc/skel/.profile": "# profile\n",
		"usr/sbin/visudo":   "",
		"home/installer/x":  "theirs",
		"run/x":             "",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func onMachine(root string, faults *providertest.Faults) *Provider {
	return New(Config{Host: host.New(host.Config{Root: root, Runner: faults.Runner(shadowTools{root}), Fault: faults.Op})})
}

// Keys of nobody: their private halves do not exist any more.
const (
	operatorKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU"
	developerKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9KPhnIv7pCdzoSyGflHW2bMORsoA9kYj66mdOd"
)

func operator() *v1.Account {
	return &v1.Account{Name: "operator", FullName: "Operator", Sudo: true, SshLogin: true,
		SshKeys: []string{operatorKey + " operator@example"}}
}

func developer() *v1.Account {
	return &v1.Account{Name: "developer", FullName: "Developer", Sudo: true, SshLogin: true,
		SshKeys: []string{developerKey + " developer@example"}}
}

func relay(key, from string) *v1.WitnessKey {
	return &v1.WitnessKey{Node: "client-relay", PublicKey: key, From: []string{from}}
}

func wishFor(stage provider.Stage, laggards []string, witness *v1.WitnessKey, accounts ...*v1.Account) wish {
	spec := &v1.AccountsSpec{Accounts: accounts}
	if witness != nil {
		spec.WitnessKeys = []*v1.WitnessKey{witness}
	}
	return wish{Spec: spec, Stage: stage, Laggards: laggards}
}
