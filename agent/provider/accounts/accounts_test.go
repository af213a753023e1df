package accounts

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write the golden files")

func TestConformance(t *testing.T) {
	old, latest := relay(developerKey, "10.0.10.4"), relay(developerKey, "10.0.10.5")
	noSudo := operator()
	noSudo.Sudo = false
	installer := &v1.Account{Name: "installer", FullName: "Taken Over", SshKeys: []string{operatorKey}}
	providertest.Run(t, providertest.Suite[*v1.AccountsSpec]{
		New: func(t *testing.T, faults *providertest.Faults) providertest.Env[*v1.AccountsSpec] {
			root := machine(t)
			return providertest.Env[*v1.AccountsSpec]{Root: root, Provider: onMachine(root, faults),
				Foreign: func() (string, error) {
					data, err := os.ReadFile(root + "/home/installer/x")
					return string(data), err
				}}
		},
		Steps: []providertest.Step[*v1.AccountsSpec]{
			{Name: "first people", Wish: wishFor(provider.Additions, nil, old, operator(), developer())},
			{Name: "first narrowing", Wish: wishFor(provider.Narrowing, nil, old, operator(), developer()), NoChange: true},
			{Name: "one leaves, additions", Wish: wishFor(provider.Additions, nil, latest, noSudo)},
			{Name: "one leaves, narrowing", Wish: wishFor(provider.Narrowing, nil, latest, noSudo)},
			{Name: "nothing more to add", Wish: wishFor(provider.Additions, nil, latest, noSudo), NoChange: true},
			{Name: "comes back", Wish: wishFor(provider.Additions, nil, latest, noSudo, developer())},
			{Name: "foreign account taken over", Wish: wishFor(provider.Additions, nil, latest, noSudo, developer(), installer)},
			{Name: "taken over account closed", Wish: wishFor(provider.Narrowing, nil, latest, noSudo, developer())},
		},
		Secrets: []string{"SECRETHASH", operatorKey[len(operatorKey)-40:], developerKey[len(developerKey)-40:]},
		Drifts: []providertest.Drift[*v1.AccountsSpec]{
			{Name: "key added by hand", After: 2, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				appendTo(t, env.Root+KeysDir+"/operator", developerKey+" backdoor\n")
			}},
			{Name: "key file removed", After: 2, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				must(t, os.Remove(env.Root+KeysDir+"/operator"))
			}},
			{Name: "key file of a stranger", After: 2, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				appendTo(t, env.Root+KeysDir+"/installer", developerKey+"\n")
			}},
			{Name: "sudo given by hand", After: 2, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				must(t, os.Chmod(env.Root+sudoersFile, 0o644))
				appendTo(t, env.Root+sudoersFile, "daemon"+sudoRule+"\n")
			}},
			{Name: "key folder closed", After: 2, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				must(t, os.Chmod(env.Root+KeysDir, 0o700))
			}},
			{Name: "account unlocked by hand", After: 4, Do: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
				must(t, shadowTools{env.Root}.usermod("developer", []string{"-U", "-e", "", "-s", "/bin/bash"}))
			}},
		},
		Refusals: []providertest.Refusal[*v1.AccountsSpec]{
			{Name: "root", Code: errs.Invalid, Wish: named("root")},
			{Name: "system account", Code: errs.Invalid, Wish: named("daemon")},
			{Name: "option instead of a name", Code: errs.Invalid, Wish: named("-f")},
			{Name: "path instead of a name", Code: errs.Invalid, Wish: named("../x")},
			{Name: "named twice", Code: errs.Invalid, Wish: wishFor(provider.Additions, nil, nil, operator(), operator())},
			{Name: "key with options", Code: errs.Invalid, Wish: keyed(`command="x" ` + operatorKey)},
			{Name: "two keys in one", Code: errs.Invalid, Wish: keyed(operatorKey + "\n" + developerKey)},
			{Name: "no key", Code: errs.Invalid, Wish: keyed("ssh-ed25519 AAAA")},
			{Name: "short RSA key", Code: errs.Invalid, Wish: keyed(shortRSA)},
			{Name: "line end in a full name", Code: errs.Invalid,
				Wish: wishFor(provider.Additions, nil, nil, &v1.Account{Name: "x", FullName: "a\nroot2:x:0:0"})},
			{Name: "witness from a name", Code: errs.Invalid,
				Wish: wishFor(provider.Additions, nil, relay(developerKey, `*",command="sh`), operator())},
			{Name: "no sudo installed", Code: errs.Precondition, Wish: wishFor(provider.Additions, nil, nil, operator()),
				Prepare: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
					must(t, os.Remove(env.Root+"/usr/sbin/visudo"))
				}},
			{Name: "unreadable record", Code: errs.Precondition, Wish: wishFor(provider.Additions, nil, nil, operator()),
				Prepare: func(t *testing.T, env providertest.Env[*v1.AccountsSpec]) {
					must(t, os.MkdirAll(filepath.Dir(env.Root+keptFile), 0o755))
					appendTo(t, env.Root+keptFile, "{")
				}},
		},
		MaxFaults: 40,
	})
}

func named(name string) wish {
	return wishFor(provider.Additions, nil, nil, &v1.Account{Name: name, SshKeys: []string{operatorKey}})
}

func keyed(key string) wish {
	return wishFor(provider.Additions, nil, nil, &v1.Account{Name: "operator", SshKeys: []string{key}})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

func applied(t *testing.T, p *Provider, w wish) {
	t.Helper()
	pl, err := p.Plan(context.Background(), w)
	must(t, err)
	must(t, p.Apply(context.Background(), pl))
	must(t, p.Verify(context.Background(), w))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestFilesAreAsGolden(t *testing.T) {
	root := machine(t)
	applied(t, onMachine(root, &providertest.Faults{}), wishFor(provider.Additions, nil, relay(developerKey, "10.0.10.4"), operator()))
	for golden, path := range map[string]string{"keys": KeysDir + "/operator", "sudoers": sudoersFile, "kept.json": keptFile} {
		got := read(t, root+path)
		file := filepath.Join("testdata", golden)
		if *update {
			must(t, os.WriteFile(file, []byte(got), 0o644))
		}
		if d := cmp.Diff(read(t, file), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", path, d)
		}
	}
}

func TestLaggardKeepsItsOldWitnessLine(t *testing.T) {
	root := machine(t)
	p := onMachine(root, &providertest.Faults{})
	applied(t, p, wishFor(provider.Additions, nil, relay(developerKey, "10.0.10.4"), operator()))
	next := relay(developerKey, "10.0.10.5")
	applied(t, p, wishFor(provider.Additions, nil, next, operator()))
	applied(t, p, wishFor(provider.Narrowing, []string{"client-relay"}, next, operator()))
	if got := read(t, root+KeysDir+"/operator"); !strings.Contains(got, `from="10.0.10.4"`) {
		t.Errorf("the laggard's line is gone:\n%s", got)
	}
	applied(t, p, wishFor(provider.Narrowing, nil, next, operator()))
	if got := read(t, root+KeysDir+"/operator"); strings.Contains(got, `from="10.0.10.4"`) {
		t.Errorf("the old line is still there:\n%s", got)
	}
}

func TestSystemGroupOfTheSameNameIsNotJoined(t *testing.T) {
	root := machine(t)
	applied(t, onMachine(root, &providertest.Faults{}), wishFor(provider.Additions, nil, nil, operator()))
	if got := read(t, root+"/etc/passwd"); !strings.Contains(got, ":100:Operator:") {
		t.Errorf("operator's group is not users:\n%s", got)
	}
}

func TestRollbackLeavesAHomeThatSomebodyUsed(t *testing.T) {
	root := machine(t)
	p := onMachine(root, &providertest.Faults{})
	w := wishFor(provider.Additions, nil, nil, operator())
	pl, err := p.Plan(context.Background(), w)
	must(t, err)
	snap, err := p.Snapshot(context.Background(), pl)
	must(t, err)
	must(t, p.Apply(context.Background(), pl))
	appendTo(t, root+"/home/operator/work", "theirs")
	must(t, p.Rollback(context.Background(), snap))
	if got := read(t, root+"/home/operator/work"); got != "theirs" {
		t.Errorf("work = %q", got)
	}
}

func TestBrokenSudoersNeverGetsInPlace(t *testing.T) {
	root := machine(t)
	p := onMachine(root, &providertest.Faults{})
	f := p.file(sudoersFile, []byte("BROKEN\n"), 0o440)
	if err := p.applySudoers(context.Background(), fileWork{want: f}); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Lstat(root + sudoersFile); err == nil {
		t.Error("it is in place")
	}
}

const shortRSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCz+fDio5OjUFttA07y59IMEbpIjHRY5g+ridKk8ZDzIyWylalBal0adAfe8MJLW5WUnFkcPE3ZMMqxUhDF6W1pvfZbNTOgo8upjbD4PQGuiD0u8ZVvrqTsPLl+GYte+SsMN6U4TgcQsWwxmJP3/J7ST6+UUf30uX0uwQplownWOMKmeuGH1va5HkYd/eZw+tTKqch3SpK9Gt97+1mNhOnwD43m+zV85W0TQH0AWoSosWg3qsrGDE5BMtJXoLBQFArqWD3gfL+XDpdOnmOSArttg8mBd710k6mvaWZu+0wyOmCmdAnpeCu8mZOhwWTff91WjIxzU4p7/df8HdGgDwNJ short"
