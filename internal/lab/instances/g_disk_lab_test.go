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

// soon is how long a decision may take after a change of limits, later how long one may take that the agent comes to by itself.
const soon, later = 20 * time.Second, 3 * time.Minute

// send is a request of somebody on the internet that brings so much; how are further words for curl.
func send(t *testing.T, url, size string, how ...string) Page {
	t.Helper()
	in(t, demo.Internet, "sh", "-c", "head -c "+size+" /dev/urandom > /tmp/upload")
	page, err := fleet.browse(t.Context(), url+"index.php", how...)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func upload(t *testing.T, url string) Page {
	t.Helper()
	return send(t, url, "300K", "-F", "sendit=x", "-F", "userfile=@/tmp/upload")
}

func refusal(p Page) error {
	if p.Code != 507 || !strings.Contains(p.Body, `lang="fr"`) || !strings.Contains(p.Title, "Espace de stockage") {
		return errs.New(errs.Precondition, "code %d, title %q %s", p.Code, p.Title, p.Problem)
	}
	return nil
}

// passed says that a request came through to the application. A real one refuses what has no token of its forms with 403.
func passed(p Page) bool { return p.Code == 200 || p.Code == 403 }

// waitUpload tries to upload until that ends as it should.
func waitUpload(t *testing.T, url string, limit time.Duration, refused bool) {
	t.Helper()
	begun := time.Now()
	for {
		page := upload(t, url)
		switch {
		case refused && refusal(page) == nil, !refused && passed(page):
			t.Logf("an upload is refused: %t, after %.1f s", refused, time.Since(begun).Seconds())
			return
		case time.Since(begun) > limit:
			t.Fatalf("after %s an upload gets %d, %q %s; refused should be %t", limit, page.Code, page.Title, page.Problem, refused)
		}
		time.Sleep(time.Second)
	}
}

func TestAFullInstanceRefusesUploadsAndNothingElse(t *testing.T) {
	const name = "brimful"
	url := URL(name)
	password := create(t, name, "--language", "fr", "--disk", "2G")
	waitUpload(t, url, soon, false)
	fill := func() {
		infractl(t, 0, "instance", "exec", name, "-n", "--", "sh", "-c", "head -c 210M /dev/urandom > /var/www/documents/filler")
	}
	fill()
	infractl(t, 0, "instance", "limits", name, "--disk", "200M")
	waitUpload(t, url, soon, true)

	for what, c := range map[string]struct {
		size   string
		how    []string
		refuse bool
	}{
		"a huge upload":         {"20M", []string{"-F", "userfile=@/tmp/upload"}, true},
		"a big body":            {"70K", []string{"--data-binary", "@/tmp/upload"}, true},
		"a body of no length":   {"10", []string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@/tmp/upload"}, true},
		"a file of WebDAV":      {"1M", []string{"-T", "/tmp/upload"}, true},
		"a form":                {"0", []string{"-d", "action=x&note=y"}, false},
		"a form with no file":   {"2K", []string{"-F", "note=</tmp/upload"}, false},
		"a long text in a form": {"40K", []string{"--data-binary", "@/tmp/upload"}, false},
		"a question for a page": {"0", nil, false},
	} {
		page := send(t, url, c.size, c.how...)
		if c.refuse && refusal(page) != nil || !c.refuse && !passed(page) {
			t.Errorf("%s gets %d, refused should be %t: %q %s", what, page.Code, c.refuse, page.Title, page.Problem)
		}
	}
	if _, err := fleet.WaitLogin(t.Context(), name, pageLimit); err != nil {
		t.Errorf("reading does not go on: %v", err)
	}
	if err := fleet.LogIn(t.Context(), name, password); err != nil {
		t.Errorf("logging in does not go on: %v", err)
	}
	if page := upload(t, URL("acme")); !passed(page) {
		t.Errorf("a neighbour's upload gets %d", page.Code)
	}
	shows := func(text string, wanted bool) {
		t.Helper()
		begun, out := time.Now(), ""
		for time.Since(begun) < soon { // the server asks the host again when it knows something of a few seconds ago
			if out = infractl(t, 0, "instance", "show", name); strings.Contains(out, text) == wanted {
				return
			}
			time.Sleep(time.Second)
		}
		t.Errorf("instance show has %q should be %t: %s", text, wanted, out)
	}
	shows("of 200 MiB", true)
	shows("uploads are refused", true)
	if out := infractl(t, 0, "instance", "list"); !strings.Contains(out, "uploads are refused") {
		t.Errorf("instance list: %s", out)
	}
	if r, err := fleet.Infractl(t.Context(), "status"); err != nil || !strings.Contains(r.Stdout, "its disk space is used up") {
		t.Errorf("status: %v %s %s", err, r.Stdout, r.Stderr)
	}

	t.Run("a new agent goes on with it", func(t *testing.T) {
		in(t, demo.Prod, "systemctl", "restart", "infractl-agent")
		for range 10 {
			if err := refusal(upload(t, url)); err != nil {
				t.Errorf("an upload: %v", err)
			}
		}
	})
	t.Run("a higher limit counts at once", func(t *testing.T) {
		infractl(t, 0, "instance", "limits", name, "--disk", "4G")
		waitUpload(t, url, soon, false)
		infractl(t, 0, "instance", "limits", name, "--disk", "200M")
		waitUpload(t, url, soon, true)
	})
	t.Run("it ends when something is deleted", func(t *testing.T) {
		infractl(t, 0, "instance", "exec", name, "-n", "--", "rm", "/var/www/documents/filler")
		waitUpload(t, url, later, false)
		shows("uploads are refused", false)
	})
	if out := infractl(t, 0, "instance", "audit"); !strings.Contains(out, "records and reality agree") {
		t.Errorf("audit: %s", out)
	}
	if err := fleet.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
}

// TestDatabaseGetsNewPasswordsWhilePeopleWork asks for a page all the time meanwhile.
func TestDatabaseGetsNewPasswordsWhilePeopleWork(t *testing.T) {
	const name = "locksmith"
	password := create(t, name)
	id := show(t, name).ID
	secrets := func() string {
		out, _ := in(t, demo.Prod, "sh", "-c", "cat "+instancesDisk+"/"+id+"/secrets/db "+instancesDisk+"/"+id+"/secrets/db-root")
		return out
	}
	before := secrets()
	stop, asked := make(chan struct{}), make(chan []string)
	go func() {
		var bad []string
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n < 5 {
					bad = append(bad, "too few pages to prove anything")
				}
				asked <- bad
				return
			default:
			}
			if page, err := fleet.browse(t.Context(), URL(name)); err != nil || page.IsLogin() != nil {
				bad = append(bad, fmt.Sprintf("%v %v", err, page.IsLogin()))
			}
		}
	}()
	infractl(t, 0, "instance", "password", name, "--database", "--yes")
	in(t, demo.Prod, "systemctl", "kill", "-s", "KILL", "infractl-agent") // the next time without an agent in the middle
	infractl(t, 0, "instance", "password", name, "--database", "--yes")
	close(stop)
	for _, problem := range <-asked {
		t.Errorf("somebody was cut off: %s", problem)
	}
	if after := secrets(); after == before || after == "" {
		t.Error("the passwords on the host are the same")
	}
	if out, code := in(t, demo.Prod, "sh", "-c", "ls "+instancesDisk+"/"+id+"/secrets/former"); code == 0 {
		t.Errorf("former passwords are left: %s", out)
	}
	infractl(t, 0, "instance", "restart", name, "--yes")
	if _, err := fleet.WaitLogin(t.Context(), name, pageLimit); err != nil {
		t.Error(err)
	}
	if err := fleet.LogIn(t.Context(), name, password); err != nil {
		t.Error(err)
	}
	former := strings.Fields(before)
	everywhere, _ := in(t, demo.Prod, "sh", "-c", `docker inspect $(docker ps -aq); journalctl --no-pager -q; docker ps -q | xargs -n1 docker logs 2>&1`)
	for _, secret := range append(former, strings.Fields(secrets())...) {
		if strings.Contains(everywhere, secret) {
			t.Errorf("a password can be read on the host: it begins with %.3s", secret)
		}
	}
	if err := fleet.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
}
