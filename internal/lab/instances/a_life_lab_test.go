//go:build lab

package instances

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
)

func TestTwoInstancesAreReachedByNameFromTheInternet(t *testing.T) {
	for _, name := range []string{"acme", "beta"} {
		password := create(t, name, "--company", "Company of "+name)
		page, err := fleet.WaitLogin(t.Context(), name, pageLimit)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d, %q, %.0f ms", URL(name), page.Code, page.Title, page.Seconds*1000)
		if err := fleet.LogIn(t.Context(), name, password); err != nil {
			t.Errorf("the administrator's first login: %v", err)
		}
		if err := fleet.LogIn(t.Context(), name, password+"x"); err == nil {
			t.Error("a wrong password logs in")
		}
		if i := show(t, name); i.State != "INSTANCE_STATE_ACTIVE" || i.Version != Version || i.Node != demo.Prod {
			t.Errorf("instance show: %+v", i)
		}
	}
	if page, err := fleet.browse(t.Context(), URL("acme")+"install/index.php"); err != nil || page.Code != 404 {
		t.Errorf("the installer is reached from outside: %d, %v", page.Code, err)
	}
	if page, err := fleet.browse(t.Context(), URL("nobody")); err != nil || page.Code == 200 {
		t.Errorf("a name of nobody answers %d, %v", page.Code, err)
	}
	if out := infractl(t, 0, "instance", "audit"); !strings.Contains(out, "records and reality agree") {
		t.Errorf("audit: %s", out)
	}
}

// TestNoInstanceReachesAnother tries from inside an application's container, with PHP's own sockets.
func TestNoInstanceReachesAnother(t *testing.T) {
	addresses := func(name string) map[string]string {
		out, _ := in(t, demo.Prod, "sh", "-c", `for c in $(docker ps -q --filter label=infractl.instance=`+name+`); do
  docker inspect -f '{{index .Config.Labels "infractl.part"}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' $c; done`)
		found := map[string]string{}
		for line := range strings.Lines(out) {
			if part, address, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				found[part] = address
			}
		}
		return found
	}
	own, other := addresses("acme"), addresses("beta")
	if own["db"] == "" || other["app"] == "" || other["db"] == "" {
		t.Fatalf("no addresses: %v %v", own, other)
	}
	gateway, _ := in(t, demo.Prod, "sh", "-c", "docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' $(docker network ls -q --filter label=infractl.instance=acme)")
	gateway = strings.TrimSpace(gateway)
	open := func(address string, port int) bool {
		code := fmt.Sprintf(`$s = @fsockopen(%q, %d, $no, $text, 2); exit($s ? 0 : 9);`, address, port)
		r, err := fleet.Infractl(t.Context(), "instance", "exec", "acme", "-n", "--", "php", "-r", code)
		if err != nil || r.Code != 0 && r.Code != 9 {
			t.Fatalf("exec in acme: code %d, %v, %s", r.Code, err, r.Stderr)
		}
		return r.Code == 0
	}
	if !open("db", 3306) {
		t.Error("it does not reach its own database: the trial proves nothing")
	}
	if !open(outsideWeb, 443) {
		t.Error("it does not reach a web server of the internet")
	}
	for what, at := range map[string]struct {
		address string
		port    int
	}{
		"another's application": {other["app"], 80}, "another's database": {other["db"], 3306},
		"its host's front": {"10.0.10.20", 80}, "its host's sshd": {"10.0.10.20", 202}, "its gateway's front": {gateway, 80}, "its gateway's sshd": {gateway, 202},
		"the server": {"10.0.10.4", 7443}, "the bastion's sshd": {"10.0.10.4", 202}, "the name server's sshd": {"10.0.10.10", 202},
		"the proxy": {"10.0.10.10", 443}, "supervision": {"10.0.10.11", 9090}, "the router": {"10.0.10.1", 202},
	} {
		if open(at.address, at.port) {
			t.Errorf("acme reaches %s at %s:%d", what, at.address, at.port)
		}
	}
}

func TestAnInstanceRunsWithoutMoreThanItNeeds(t *testing.T) {
	out, _ := in(t, demo.Prod, "sh", "-c", `for c in $(docker ps -q --filter label=infractl.instance=acme); do
  docker inspect -f '{{index .Config.Labels "infractl.part"}}|{{.HostConfig.Privileged}}|{{.HostConfig.CapDrop}}|{{.HostConfig.SecurityOpt}}|{{.HostConfig.Memory}}|{{.HostConfig.PidsLimit}}|{{.HostConfig.NanoCpus}}|{{.HostConfig.PortBindings}}' $c; done`)
	seen := 0
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 8 {
			t.Fatalf("docker inspect: %q", line)
		}
		seen++
		if f[1] != "false" || !strings.Contains(f[2], "ALL") || !strings.Contains(f[3], "no-new-privileges") || f[4] == "0" || f[5] == "0" || f[7] != "map[]" {
			t.Errorf("%s: %s", f[0], line)
		}
	}
	if seen < 2 {
		t.Errorf("%d containers of acme were seen", seen)
	}
	// Secrets are in files, and nowhere that is easy to look at.
	secrets, _ := in(t, demo.Prod, "sh", "-c", "cat "+instancesDisk+"/"+show(t, "acme").ID+"/secrets/*")
	everywhere, _ := in(t, demo.Prod, "sh", "-c", `docker inspect $(docker ps -aq); cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n'; journalctl --no-pager -q; docker ps -q | xargs -n1 docker logs 2>&1`)
	checked := 0
	for secret := range strings.FieldsSeq(secrets) {
		if checked++; len(secret) >= 20 && strings.Contains(everywhere, secret) {
			t.Errorf("a secret of acme can be read on its host: it begins with %.3s", secret)
		}
	}
	if checked < 3 {
		t.Errorf("%d secrets were found to look for", checked)
	}
}

func suspended(p Page) error {
	if p.Code != 503 || !strings.Contains(strings.ToLower(p.Header), "retry-after") {
		return errs.New(errs.Precondition, "code %d, %s", p.Code, p.Problem)
	}
	return nil
}

func TestSuspendShowsAPageAndResumeBringsItBack(t *testing.T) {
	infractl(t, 0, "instance", "suspend", "acme", "--yes")
	page, err := fleet.WaitPage(t.Context(), URL("acme"), pageLimit, suspended)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(page.Body, `lang="fr"`) {
		t.Errorf("the page is not in the customer's language: %s", page.Body)
	}
	if out, _ := in(t, demo.Prod, "docker", "ps", "-q", "--filter", "label=infractl.instance=acme"); out != "" {
		t.Errorf("containers of a suspended instance run: %s", out)
	}
	if _, err := fleet.WaitLogin(t.Context(), "beta", pageLimit); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	infractl(t, 0, "instance", "resume", "acme")
	if _, err := fleet.WaitLogin(t.Context(), "acme", pageLimit); err != nil {
		t.Fatal(err)
	}
	infractl(t, 1, "instance", "resume", "acme") // it works already
}

func TestWhatDiesComesBack(t *testing.T) {
	for _, part := range []string{"app", "db"} {
		if out, code := in(t, demo.Prod, "sh", "-c", "docker kill $(docker ps -q --filter label=infractl.instance=acme --filter label=infractl.part="+part+")"); code != 0 {
			t.Fatalf("kill %s: %s", part, out)
		}
		if _, err := fleet.WaitLogin(t.Context(), "acme", 90*time.Second); err != nil {
			t.Errorf("after the death of its %s: %v", part, err)
		}
	}
	if out, code := in(t, demo.Prod, "docker", "rm", "-f", "infractl-"+show(t, "beta").ID+"-app"); code != 0 {
		t.Fatal(out)
	}
	if _, err := fleet.WaitLogin(t.Context(), "beta", 90*time.Second); err != nil {
		t.Errorf("after its application was removed by hand: %v", err)
	}
	if out, code := in(t, demo.Prod, "docker", "kill", "infractl-front"); code != 0 {
		t.Fatal(out)
	}
	wellOff(t)
}

func TestPasswordLimitsAndLanguage(t *testing.T) {
	file := fleet.dir + "/again.password"
	infractl(t, 0, "instance", "password", "acme", "--password-file", file, "--yes")
	password := strings.TrimSpace(readFile(t, file))
	if err := fleet.LogIn(t.Context(), "acme", password); err != nil {
		t.Errorf("the new password: %v", err)
	}
	before, _ := in(t, demo.Prod, "docker", "inspect", "-f", "{{.Id}} {{.HostConfig.Memory}}", "infractl-"+show(t, "acme").ID+"-app")
	infractl(t, 0, "instance", "limits", "acme", "--memory", "640M", "--pids", "300")
	after, _ := in(t, demo.Prod, "docker", "inspect", "-f", "{{.Id}} {{.HostConfig.Memory}}", "infractl-"+show(t, "acme").ID+"-app")
	idBefore, memoryBefore, _ := strings.Cut(before, " ")
	idAfter, memoryAfter, _ := strings.Cut(after, " ")
	if idBefore != idAfter || memoryBefore == memoryAfter {
		t.Errorf("limits: before %s, after %s: the same container should have another limit", before, after)
	}
	if out := infractl(t, 0, "instance", "exec", "acme", "-n", "--", "id", "-u"); strings.TrimSpace(out) != "33" {
		t.Errorf("the application runs as %s", out)
	}
	if out := infractl(t, 0, "instance", "logs", "acme", "--tail", "3"); out == "" {
		t.Error("there is no log")
	}
	wellOff(t)
}

func TestACustomersOwnDomainAndAnotherName(t *testing.T) {
	custom := "erp." + CustomDomain
	infractl(t, 0, "instance", "domains", "beta", "--add", custom)
	if _, err := fleet.WaitPage(t.Context(), "https://"+custom+"/", pageLimit, Page.IsLogin); err != nil {
		t.Error(err)
	}
	infractl(t, 0, "instance", "rename", "beta", "gamma", "--yes")
	if _, err := fleet.WaitLogin(t.Context(), "gamma", pageLimit); err != nil {
		t.Error(err)
	}
	if page, err := fleet.browse(t.Context(), URL("beta")); err != nil || page.Code == 200 {
		t.Errorf("the former name answers %d, %v", page.Code, err)
	}
	if _, err := fleet.WaitPage(t.Context(), "https://"+custom+"/", pageLimit, Page.IsLogin); err != nil {
		t.Errorf("its own domain after the rename: %v", err)
	}
	infractl(t, 0, "instance", "rename", "gamma", "beta", "--yes")
	infractl(t, 0, "instance", "domains", "beta", "--remove", custom, "--yes")
	wellOff(t)
}

func TestAfterARebootOfTheHostAllAnswerAgain(t *testing.T) {
	prod := fleet.Lab.VM(demo.Prod)
	if err := prod.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := prod.WaitBooted(t.Context()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for _, name := range []string{"acme", "beta"} {
		if _, err := fleet.WaitLogin(t.Context(), name, 3*time.Minute); err != nil {
			t.Error(err)
		}
	}
	t.Logf("both answer %.0f s after the boot", time.Since(begun).Seconds())
}

func TestDeleteKeepsAndPurgeLeavesNothing(t *testing.T) {
	create(t, "shortlived")
	id := show(t, "shortlived").ID
	if len(traces(t, "shortlived", id)) < 5 {
		t.Errorf("the search for traces sees only %q of a living one", traces(t, "shortlived", id))
	}
	infractl(t, 1, "instance", "purge", "shortlived", "--early", "--yes") // it is not archived
	infractl(t, 0, "instance", "delete", "shortlived", "--yes")
	if _, err := fleet.WaitPage(t.Context(), URL("shortlived"), pageLimit, suspended); err != nil {
		t.Errorf("archived: %v", err)
	}
	infractl(t, 0, "instance", "resume", "shortlived")
	if _, err := fleet.WaitLogin(t.Context(), "shortlived", pageLimit); err != nil {
		t.Errorf("it does not come back as it was: %v", err)
	}
	infractl(t, 0, "instance", "delete", "shortlived", "--yes")
	infractl(t, 1, "instance", "purge", "shortlived", "--yes") // its time is not over
	out := infractl(t, 0, "instance", "purge", "shortlived", "--early", "--yes")
	for _, word := range []string{"shortlived", id} {
		if !strings.Contains(out, word) {
			t.Errorf("the certificate of destruction does not name %s:\n%s", word, out)
		}
	}
	gone(t, "shortlived", id)
	if out := infractl(t, 0, "instance", "show", "shortlived", "--certificate"); !strings.Contains(out, id) {
		t.Errorf("the certificate is not kept: %s", out)
	}
	infractl(t, 0, "instance", "audit")
	wellOff(t)
	// The name is free again.
	create(t, "shortlived")
	if err := fleet.Remove(t.Context(), "shortlived"); err != nil {
		t.Error(err)
	}
}
