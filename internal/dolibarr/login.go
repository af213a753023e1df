package dolibarr

import (
	"net/http"
	"regexp"

	"github.com/infractl/infractl/internal/errs"
)

// LoginPath is where the login page of an instance is, below its name.
const LoginPath = "/index.php"

// titleForm finds the version in a login page. The word before the sign is translated, and replaced by the application's title.
var titleForm = regexp.MustCompile(`<title>[^<]* @ ([0-9]+\.[0-9]+\.[0-9]+)</title>`)

// LoginVersion returns the version that a login page shows: the page is exactly 200, with the version in its title. Anything below 400 would
// call a page "database down" (202), one "please upgrade" (302) and a refused character set healthy. Precondition for all that is none.
func LoginVersion(status int, body []byte) (string, error) {
	if status != http.StatusOK {
		return "", errs.New(errs.Precondition, "its login page answers %d", status).WithHint("infractl instance logs says why")
	}
	found := titleForm.FindSubmatch(body)
	if found == nil {
		return "", errs.New(errs.Precondition, "its login page shows no version: it is not Dolibarr's").WithHint("infractl instance logs says why")
	}
	return string(found[1]), nil
}
