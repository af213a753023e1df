package instances

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Page is an answer as somebody on the internet gets it.
type Page struct {
	// Code is the status, 0 when there was no answer; then Problem says why.
	Code    int
	Problem string
	// Title and Body are the page's, Header its head lines as they came.
	Title, Body, Header string
	// Seconds is how long it took, from the question for the name to the last byte.
	Seconds float64
}

// URL is where people open an instance.
func URL(name string) string { return "https://" + name + "." + Domain + "/" }

var titleForm = regexp.MustCompile(`(?is)<title>([^<]*)</title>`)

// browse runs curl on the VM "internet": the name is asked for there, and the certificate must be of the authority.
func (f *Fleet) browse(ctx context.Context, url string, more ...string) (Page, error) {
	const mark = "\n--lab--"
	argv := append([]string{"curl", "-sS", "--max-time", "15", "--cacert", rootsFile, "-D", "-", "-w", mark + "%{http_code} %{time_total}", url}, more...)
	r, err := f.Lab.VM(demo.Internet).Exec(ctx, argv...)
	if err != nil {
		return Page{}, err
	}
	text, tail, _ := strings.Cut(r.Stdout, mark)
	var p Page
	code, took, _ := strings.Cut(tail, " ")
	p.Code, _ = strconv.Atoi(code)
	p.Seconds, _ = strconv.ParseFloat(took, 64)
	// An answer to Expect or a redirection that was followed has a head of its own: the last one counts.
	for strings.HasPrefix(text, "HTTP/") {
		head, rest, found := strings.Cut(text, "\r\n\r\n")
		if !found {
			break
		}
		p.Header, text = head, rest
	}
	p.Body = text
	if m := titleForm.FindStringSubmatch(text); m != nil {
		p.Title = html.UnescapeString(strings.TrimSpace(m[1]))
	}
	if r.Code != 0 {
		p.Problem = strings.TrimSpace(r.Stderr)
	}
	return p, nil
}

// IsLogin says why a page is not the login page of the fleet's version; nil when it is.
func (p Page) IsLogin() error {
	if p.Code != 200 || !strings.HasSuffix(p.Title, "@ "+Version) {
		return errs.New(errs.Precondition, "code %d, title %q %s", p.Code, p.Title, p.Problem)
	}
	return nil
}

// WaitPage asks until the page is as it should be.
func (f *Fleet) WaitPage(ctx context.Context, url string, limit time.Duration, good func(Page) error) (Page, error) {
	deadline := time.Now().Add(limit)
	for {
		p, err := f.browse(ctx, url)
		if err != nil {
			return p, err
		}
		problem := good(p)
		if problem == nil {
			return p, nil
		}
		if time.Now().After(deadline) {
			return p, errs.New(errs.Timeout, "%s is not as it should be after %s: %w", url, limit, problem)
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// WaitLogin waits for an instance's login page.
func (f *Fleet) WaitLogin(ctx context.Context, name string, limit time.Duration) (Page, error) {
	return f.WaitPage(ctx, URL(name), limit, Page.IsLogin)
}

var tokenForm = regexp.MustCompile(`name="token"[^>]*value="([^"]*)"`)

// LogIn logs into an instance as its administrator, as a browser does: the form's token goes back with the cookie.
func (f *Fleet) LogIn(ctx context.Context, name, password string) error {
	jar := "/tmp/jar-" + name
	defer f.Lab.VM(demo.Internet).Exec(context.WithoutCancel(ctx), "rm", "-f", jar) //nolint:errcheck // a cookie of a lab
	form, err := f.browse(ctx, URL(name)+"index.php", "-c", jar, "-b", jar)
	if err != nil {
		return err
	}
	token := tokenForm.FindStringSubmatch(form.Body)
	if err := form.IsLogin(); err != nil || token == nil {
		return errs.New(errs.Precondition, "no login form at %s: %v", URL(name), err)
	}
	// The password travels on curl's standard input: what is an argument stands in the list of processes.
	fields := fmt.Sprintf("token=%s&actionlogin=login&loginfunction=loginfunction&username=admin&password=%s", token[1], password)
	r, err := f.Lab.VM(demo.Internet).ExecIn(ctx, strings.NewReader(fields), "curl", "-sS", "--max-time", "15", "--cacert", rootsFile, "-L", "-c", jar, "-b", jar,
		"-e", URL(name)+"index.php", "--data-binary", "@-", URL(name)+"index.php?mainmenu=home")
	if err != nil {
		return err
	}
	if r.Code != 0 || strings.Contains(r.Stdout, `name="password"`) || r.Stdout == "" {
		return errs.New(errs.Denied, "the login at %s is refused: %s", URL(name), r.Stderr)
	}
	return nil
}

// Instance is what the command line says of one.
type Instance struct {
	Name, ID, State, Node, Version, URL, Problem, Subnet, Certificate string
	Domains                                                           []string
}

// Show asks for an instance.
func (f *Fleet) Show(ctx context.Context, name string) (Instance, error) {
	out, err := f.Must(ctx, "instance", "show", name, "-o", "json")
	if err != nil {
		return Instance{}, err
	}
	var answer struct{ Instance Instance }
	return answer.Instance, errs.Wrap("read instance show", json.Unmarshal([]byte(out), &answer))
}

// Create makes an instance with the command line and returns how that ended, with its administrator's password.
func (f *Fleet) Create(ctx context.Context, name string, args ...string) (password string, r lab.Result, err error) {
	file := filepath.Join(f.dir, name+".password")
	defer os.Remove(file)
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return "", r, errs.Wrap("create "+name, err)
	}
	r, err = f.Infractl(ctx, append([]string{"instance", "create", name, "--password-file", file}, args...)...)
	if err != nil || r.Code != 0 {
		return "", r, err
	}
	raw, err := os.ReadFile(file)
	return strings.TrimSpace(string(raw)), r, errs.Wrap("read the password of "+name, err)
}

// MustCreate is Create for an instance that has to come.
func (f *Fleet) MustCreate(ctx context.Context, name string, args ...string) (password string, err error) {
	password, r, err := f.Create(ctx, name, args...)
	if err != nil {
		return "", err
	}
	return password, r.OK("infractl", "instance", "create", name)
}

// Remove deletes and purges an instance.
func (f *Fleet) Remove(ctx context.Context, name string) error {
	if _, err := f.Must(ctx, "instance", "delete", name, "--yes"); err != nil {
		return err
	}
	_, err := f.Must(ctx, "instance", "purge", name, "--early", "--yes")
	return err
}
