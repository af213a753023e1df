//go:build lab

package instances

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// refused wants a create to end badly, in words that contain one of the texts, and to leave nothing.
func refused(t *testing.T, name string, words ...string) {
	t.Helper()
	_, r, err := fleet.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("code %d: %s", r.Code, lastLines(r.Stderr, 4))
	if r.Code == 0 {
		t.Fatalf("%s was made all the same", name)
	}
	found := false
	for _, w := range words {
		found = found || strings.Contains(r.Stderr, w)
	}
	if !found {
		t.Errorf("the error says none of %q: %s", words, lastLines(r.Stderr, 6))
	}
	if list := infractl(t, 0, "instance", "list"); strings.Contains(list, name) {
		t.Errorf("it is still listed:\n%s", list)
	}
	gone(t, name, "")
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// again wants the same command to succeed, and removes what it made.
func again(t *testing.T, name string) {
	t.Helper()
	create(t, name)
	if err := fleet.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	for name, args := range map[string][]string{
		"no label": {"instance", "create", "a_b"}, "reserved": {"instance", "create", "www"}, "taken": {"instance", "create", "acme"},
		"taken but for its case": {"instance", "create", "ACME"}, "of a node": {"instance", "create", demo.Prod},
		"version": {"instance", "create", "new", "--version", "99.0.0"}, "odd version": {"instance", "create", "new", "--version", "19"},
		"no such node": {"instance", "create", "new", "--node", "nowhere"}, "too much": {"instance", "create", "new", "--memory", "60G"},
	} {
		t.Run(name, func(t *testing.T) {
			out := infractl(t, 1, args...)
			if !strings.Contains(out, "error: ") {
				t.Errorf("no error is told: %s", out)
			}
			t.Log(strings.TrimSpace(out))
		})
	}
	if list := infractl(t, 0, "instance", "list"); strings.Contains(list, "new") {
		t.Errorf("something stayed:\n%s", list)
	}
}

func TestTwoCreatesOfOneName(t *testing.T) {
	var wg sync.WaitGroup
	var results [2]lab.Result
	for i := range results {
		wg.Go(func() {
			results[i], _ = fleet.Infractl(t.Context(), "instance", "create", "twice")
		})
	}
	wg.Wait()
	good := 0
	for _, r := range results {
		switch {
		case r.Code == 0:
			good++
		case !strings.Contains(r.Stderr, "twice"):
			t.Errorf("code %d: %s", r.Code, r.Stderr)
		}
	}
	if good != 1 {
		t.Fatalf("%d of two creates of one name ended well", good)
	}
	if _, err := fleet.WaitLogin(t.Context(), "twice", pageLimit); err != nil {
		t.Error(err)
	}
	if err := fleet.Remove(t.Context(), "twice"); err != nil {
		t.Error(err)
	}
	wellOff(t)
}

func TestADatabaseThatNeverStarts(t *testing.T) {
	killer, err := fleet.Lab.VM(demo.Prod).StartProcess(t.Context(), "sh", "-c",
		`while :; do docker ps -q --filter label=infractl.instance=nodb --filter label=infractl.part=db | xargs -r docker kill >/dev/null 2>&1; sleep 0.2; done`)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "nodb", "database", "db")
	killer.Stop()
	wellOff(t)
	again(t, "nodb")
}

func TestADiskThatFillsUpMidWay(t *testing.T) {
	prod := fleet.Lab.VM(demo.Prod)
	before, _ := in(t, demo.Prod, "ls", instancesDisk)
	filled := make(chan error, 1)
	go func() {
		for range 600 {
			if now, err := prod.Must(t.Context(), "ls", instancesDisk); err != nil || now != before {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		filled <- prod.FillDisk(t.Context(), instancesDisk)
	}()
	_, r, err := fleet.Create(t.Context(), "full")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	if r.Code == 0 {
		t.Log("what it writes there was written before the disk was full")
		if err := prod.FreeDisk(t.Context(), instancesDisk); err != nil {
			t.Fatal(err)
		}
		if err := fleet.Remove(t.Context(), "full"); err != nil {
			t.Error(err)
		}
		if err := prod.FillDisk(t.Context(), instancesDisk); err != nil {
			t.Fatal(err)
		}
		refused(t, "full", "space", "disk", "full")
	} else if !strings.Contains(r.Stderr, "the disk is full") {
		t.Errorf("the error does not name the disk: %s", lastLines(r.Stderr, 5))
	}
	wellOff(t)
	if err := prod.FreeDisk(t.Context(), instancesDisk); err != nil {
		t.Fatal(err)
	}
	gone(t, "full", "")
	again(t, "full")
}

func TestTheProxyIsDown(t *testing.T) {
	if out, code := in(t, services, "systemctl", "mask", "--runtime", "--now", "caddy.service"); code != 0 {
		t.Fatal(out)
	}
	refused(t, "noproxy", "proxy", "caddy")
	if out, code := in(t, services, "sh", "-c", "systemctl unmask --runtime caddy.service && systemctl start caddy.service"); code != 0 {
		t.Fatal(out)
	}
	wellOff(t)
	again(t, "noproxy")
}

func TestTheNameServerIsDown(t *testing.T) {
	if out, code := in(t, services, "systemctl", "mask", "--runtime", "--now", "named.service"); code != 0 {
		t.Fatal(out)
	}
	refused(t, "nodns", "dns", "name", services)
	if out, code := in(t, services, "sh", "-c", "systemctl unmask --runtime named.service && systemctl start named.service"); code != 0 {
		t.Fatal(out)
	}
	wellOff(t)
	again(t, "nodns")
}

func TestTheNodeOfNamesAndProxyIsAway(t *testing.T) {
	vm := fleet.Lab.VM(services)
	if err := vm.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, r, err := fleet.Create(t.Context(), "nonode")
	if err != nil {
		t.Fatal(err)
	}
	if r.Code == 0 || !strings.Contains(r.Stderr, services) {
		t.Errorf("code %d: the error does not name the node: %s", r.Code, lastLines(r.Stderr, 5))
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitBooted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fleet.WaitOnline(t.Context(), time.Minute, services); err != nil {
		t.Fatal(err)
	}
	wellOff(t)
	gone(t, "nonode", "")
	again(t, "nonode")
}

// duringCreate does something when a create has reached the host, and returns how the command ended.
func duringCreate(t *testing.T, name string, do func()) lab.Result {
	t.Helper()
	done := make(chan lab.Result, 1)
	go func() {
		_, r, err := fleet.Create(t.Context(), name)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	for range 600 {
		out, _ := in(t, demo.Prod, "docker", "ps", "-aq", "--filter", "label=infractl.instance="+name)
		if out != "" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	do()
	return <-done
}

// settled wants an instance to work, or nothing of it to be there and the same command to make it.
func settled(t *testing.T, name string, r lab.Result) {
	t.Helper()
	t.Logf("code %d: %s", r.Code, lastLines(r.Stderr, 4))
	for range 240 {
		if out := infractl(t, 0, "operation", "list", "--open"); !strings.Contains(out, "instance/"+name) {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	list := infractl(t, 0, "instance", "list")
	if strings.Contains(list, name) {
		if _, err := fleet.WaitLogin(t.Context(), name, pageLimit); err != nil {
			t.Errorf("%v\n%s", err, list)
		}
	} else {
		gone(t, name, "")
		create(t, name)
	}
	id := show(t, name).ID
	if err := fleet.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	gone(t, name, id)
	wellOff(t)
}

func TestTheServerIsKilledMidCreate(t *testing.T) {
	r := duringCreate(t, "noserver", func() {
		if out, code := in(t, demo.Relay, "systemctl", "kill", "-s", "KILL", "infractl-server.service"); code != 0 {
			t.Error(out)
		}
		if out, code := in(t, demo.Relay, "systemctl", "start", "infractl-server.service"); code != 0 {
			t.Error(out)
		}
	})
	settled(t, "noserver", r)
}

func TestTheAgentIsKilledMidCreate(t *testing.T) {
	r := duringCreate(t, "noagent", func() {
		if out, code := in(t, demo.Prod, "systemctl", "kill", "-s", "KILL", "infractl-agent.service"); code != 0 {
			t.Error(out)
		}
	})
	settled(t, "noagent", r)
}

func TestTwentyCreatesAtOnce(t *testing.T) {
	weekIsOver(t)
	defer weekIsOver(t)
	const n = 20
	var wg sync.WaitGroup
	errors := make([]string, n)
	begun := time.Now()
	for i := range n {
		wg.Go(func() {
			r, err := fleet.Infractl(t.Context(), "instance", "create", fmt.Sprintf("many%02d", i), "--memory", "256M")
			if err != nil || r.Code != 0 {
				errors[i] = fmt.Sprintf("code %d, %v: %s", r.Code, err, lastLines(r.Stderr, 3))
			}
		})
	}
	wg.Wait()
	t.Logf("%d creates at once: %.0f s", n, time.Since(begun).Seconds())
	for i, e := range errors {
		if e != "" {
			t.Errorf("many%02d: %s", i, e)
			continue
		}
		if _, err := fleet.WaitLogin(t.Context(), fmt.Sprintf("many%02d", i), pageLimit); err != nil {
			t.Error(err)
		}
	}
	wellOff(t)
	infractl(t, 0, "instance", "audit")
}
