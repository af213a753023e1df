package dolibarr

import (
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestLoginVersion(t *testing.T) {
	for outcome, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"the version":                   {200, "<html><title>Identifiant @ 19.0.4</title>", "19.0.4"},
		"another application's title":   {200, "<html><title>My ERP @ 22.0.10</title>", "22.0.10"},
		"no title":                      {200, "<html>", ""},
		"a page of somebody else":       {200, "<title>Welcome to nginx!</title>", ""},
		"the database is away":          {202, "<title>Login @ 19.0.4</title>", ""},
		"sent to the installer":         {302, "<title>Login @ 19.0.4</title>", ""},
		"refused":                       {403, "<title>Login @ 19.0.4</title>", ""},
		"a version that is not a whole": {200, "<title>Login @ 19.0</title>", ""},
	} {
		t.Run(outcome, func(t *testing.T) {
			got, err := LoginVersion(c.status, []byte(c.body))
			if got != c.want || (c.want == "") != errs.Is(err, errs.Precondition) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
