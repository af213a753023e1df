package npm

import (
	"context"
	"net/http"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Version is the release of Nginx Proxy Manager.
type Version struct {
	// Major, Minor and Revision are the release's number; all 0 where the build has none.
	Major, Minor, Revision int
	// SetUp is false while there is no user yet: then whoever comes first becomes administrator. Before 2.13 it is always true.
	SetUp bool
}

// AtLeast reports whether the release is 2.minor or newer.
func (v Version) AtLeast(minor int) bool { return v.Major > 2 || v.Major == 2 && v.Minor >= minor }

// Probe asks for the version, which decides the dialect. Errors: Unavailable while nothing answers, Precondition for a version
// that is not known, or an installation without a user.
func (c *Client) Probe(ctx context.Context) (Version, error) {
	c.mu.Lock()
	known := c.version
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var got struct {
		Status  string `json:"status"`
		Setup   *flag  `json:"setup"`
		Version struct {
			Major    int `json:"major"`
			Minor    int `json:"minor"`
			Revision int `json:"revision"`
		} `json:"version"`
	}
	if err := c.do(ctx, request{method: http.MethodGet, path: "/", into: &got}, ""); err != nil {
		return Version{}, errs.Wrap("ask for the version", err)
	}
	v := Version{Major: got.Version.Major, Minor: got.Version.Minor, Revision: got.Version.Revision,
		SetUp: got.Setup == nil || bool(*got.Setup)}
	if v.Major == 0 || v.Major == 2 && v.Minor == 0 { // a build without release numbers
		v.Major, v.Minor = 2, 12
		if got.Setup != nil {
			v.Minor = 13
		}
	}
	switch {
	case got.Status == "" || v.Major != 2 || v.Minor < 9:
		return v, errs.New(errs.Precondition, "Nginx Proxy Manager %d.%d is not supported", v.Major, v.Minor).At(c.cfg.Base).
			WithHint("use a release from 2.9 to 2.15")
	case !v.SetUp:
		return v, errs.New(errs.Precondition, "Nginx Proxy Manager has no user yet").At(c.cfg.Base).
			WithHint("set INITIAL_ADMIN_EMAIL and INITIAL_ADMIN_PASSWORD: until then anyone who reaches it can become administrator")
	}
	c.mu.Lock()
	c.version = &v
	c.mu.Unlock()
	return v, nil
}

// login returns the cached token, or a new one: logging in is slow on purpose.
func (c *Client) login(ctx context.Context, fresh bool) (string, error) {
	c.mu.Lock()
	token, expires := c.token, c.expires
	c.mu.Unlock()
	if !fresh && token != "" && c.cfg.Clock.Now().Before(expires.Add(-time.Minute)) {
		return token, nil
	}
	if c.cfg.Password == nil {
		return "", errs.New(errs.Precondition, "there is no password for the API").At(c.cfg.Base)
	}
	password, err := c.cfg.Password(ctx)
	if err != nil {
		return "", errs.Wrap("log in to Nginx Proxy Manager", err)
	}
	var got struct {
		Token   string `json:"token"`
		Expires stamp  `json:"expires"`
		Second  bool   `json:"requires_2fa"`
	}
	body := map[string]string{"identity": c.cfg.User, "secret": string(password.Reveal())}
	err = c.do(ctx, request{method: http.MethodPost, path: "/tokens", body: body, into: &got}, "")
	if s := statusOf(err); s == 400 || s == 401 || s == 403 {
		return "", errs.New(errs.Denied, "Nginx Proxy Manager refuses the log-in of %s: %s", c.cfg.User, messageOf(err)).At(c.cfg.Base).
			WithHint("check proxy.api_user and the secret of proxy.api_password")
	}
	switch {
	case err != nil:
		return "", errs.Wrap("log in to Nginx Proxy Manager", err)
	case got.Token == "" && got.Second:
		return "", errs.New(errs.Denied, "the account %s needs a second factor", c.cfg.User).At(c.cfg.Base).
			WithHint("give infractl an account of its own, without a second factor")
	case got.Token == "":
		return "", errs.New(errs.Denied, "Nginx Proxy Manager gave no token").At(c.cfg.Base)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, c.expires = got.Token, time.Time(got.Expires)
	if now := c.cfg.Clock.Now(); c.expires.IsZero() || c.expires.After(now.Add(24*time.Hour)) {
		c.expires = now.Add(12 * time.Hour)
	}
	return c.token, nil
}
