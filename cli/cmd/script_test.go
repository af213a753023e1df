package cmd_test

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/infractl/infractl/cli/cmd"
	"github.com/infractl/infractl/internal/clock"
)

var update = flag.Bool("update", false, "write golden files and generated pages anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"infractl": infractl})
}

// infractl is the real command with a clock that scripts can set.
func infractl() {
	now, err := time.Parse(time.RFC3339, os.Getenv("NOW"))
	if err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := cmd.Run(ctx, os.Args[1:], cmd.Process{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Clock: clock.NewFake(now)})
	stop()
	os.Exit(code)
}

type fakeKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "called": called, "operator": operator, "sshd": sshServer, "release": release, "engine": engine, "signs": signs,
			"restart": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(ts.Value(fakeKey{}).(*fake).restart(700 * time.Millisecond))
			},
		},
	})
}

// smallSite is a site that needs no files beside it.
const smallSite = `site: projetpro
domain: projetpro.lab
networks:
  wan: {cidr: 192.168.8.0/24, gateway: 192.168.8.1}
  lan: {cidr: 10.0.10.0/24, gateway: 10.0.10.1}
  vpn: {cidr: 10.0.20.0/24}
nodes:
  vrouter:
    role: router
    platform: linux
    interfaces:
      eth0: {network: wan, address: 192.168.8.30}
      eth1: {network: lan, address: 10.0.10.1}
      eth2: {network: vpn, address: 10.0.20.1}
  client-relay: {role: relay,   address: 10.0.10.4}
  srv-prod:     {role: prod,    address: 10.0.10.20}
  srv-pre-prod: {role: preprod, address: 10.0.10.21}
server: {nodes: [client-relay], port: 7443, enrol_port: 7444}
flows:
  - {name: admin,   from: vpn,          to: client-relay, ports: [ssh]}
  - {name: bastion, from: client-relay, to: all,          ports: [ssh]}
ssh: {port: 202, users: [operator]}
accounts:
  operator: {name: Operator, sudo: true, ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU"]}
`

// setUp gives each script a server, a folder of an operator who is logged in, and a site file.
func setUp(env *testscript.Env) error {
	f, stop, err := startFake(env.WorkDir)
	if err != nil {
		return err
	}
	env.Defer(stop)
	env.Values[fakeKey{}] = f
	config := filepath.Join(env.WorkDir, "config")
	if err := f.logIn(config); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(env.WorkDir, "stacks"), os.DirFS("../../examples/projetpro/stacks")); err != nil {
		return err
	}
	for _, name := range []string{"site.yaml", "lab.yaml"} {
		content, err := os.ReadFile(filepath.Join("../../examples/projetpro", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), content, 0o644); err != nil {
			return err
		}
		f.set(name, base64.StdEncoding.EncodeToString(content))
	}
	env.Setenv("NOW", fakeNow().Format(time.RFC3339))
	env.Setenv("TZ", "UTC")
	env.Setenv("INFRACTL_CONFIG", config)
	env.Setenv("SERVER", f.addr)
	env.Setenv("SOCKET", f.socket)
	f.set("small.yaml", base64.StdEncoding.EncodeToString([]byte(smallSite)))
	for name, id := range map[string]string{"LOGINCODE": "good", "USEDCODE": "used"} {
		code, err := f.loginCode(id)
		if err != nil {
			return err
		}
		env.Setenv(name, code)
		if err := os.WriteFile(filepath.Join(env.WorkDir, strings.ToLower(name)+".txt"), []byte(code+"\n"), 0o600); err != nil {
			return err
		}
	}
	env.Setenv("XDG_RUNTIME_DIR", "")
	env.Setenv("TMPDIR", env.WorkDir)
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("SSH_AUTH_SOCK", "")
	env.Setenv("INFRACTL_SSH_IDENTITY", "")
	env.Setenv("INFRACTL_OVERLAY", "")
	return nil
}

// exits runs a command that must end with the exit code: exits CODE PROGRAM ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// called waits until the server has heard a request that matches, or with "!" checks that it has not: called REGEXP
func called(ts *testscript.TestScript, neg bool, args []string) {
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	log := ts.Value(fakeKey{}).(*fake).log
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		content, _ := os.ReadFile(log)
		heard := false
		for line := range strings.Lines(string(content)) {
			heard = heard || re.MatchString(strings.TrimSuffix(line, "\n"))
		}
		switch {
		case neg && heard:
			ts.Fatalf("the server heard:\n%s", content)
		case neg || heard:
			return
		case time.Now().After(deadline):
			ts.Fatalf("the server heard only:\n%s", content)
		}
	}
}

// operator makes the folder of an operator of another site: operator DIR
func operator(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	f, stop, err := startFake(filepath.Join(dir, "elsewhere"))
	ts.Check(err)
	ts.Defer(stop)
	ts.Check(f.logIn(dir))
}

// signs lets the authority of the script's site sign a text: signs FILE SIGNED
func signs(ts *testscript.TestScript, _ bool, args []string) {
	document, err := ts.Value(fakeKey{}).(*fake).ca.SignDocument([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(document), 0o644))
}
