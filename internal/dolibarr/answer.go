package dolibarr

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Step is one finished part of a verb.
type Step struct {
	// Name is a word such as step2.
	Name string `json:"step"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
}

// Duration is how long the step took.
func (s Step) Duration() time.Duration { return time.Duration(s.Seconds * float64(time.Second)) }

// Answer is what the tool says at its end.
type Answer struct {
	// OK says that all was done.
	OK bool `json:"ok"`
	// Error and Hint say what was not, in words for people.
	Error string `json:"error"`
	Hint  string `json:"hint"`
	// HalfDone says that an installation of ours was broken off: drop the database, create it, install again.
	HalfDone bool `json:"half_done"`
	// Existed says that install found its work done.
	Existed bool `json:"existed"`
	// Version is that of the code, BaseVersion that of the database; both X.Y.Z.
	Version     string `json:"version"`
	BaseVersion string `json:"base_version"`
	// NotInstalled says that the installer has not come to its end.
	NotInstalled bool `json:"not_installed"`
	// UpgradeNeeded says that the code is newer than the database: every visitor is sent to the locked installer.
	UpgradeNeeded bool `json:"upgrade_needed"`
	// Downgraded says that the code is older than the database: it shows a login page all the same, and must not be started.
	Downgraded bool `json:"downgraded"`
	// Locked says that install.lock is there, Unlocked that upgrade.unlock is.
	Locked   bool `json:"locked"`
	Unlocked bool `json:"unlocked"`
	// Charset is the character set of conf.php; CharsetRefused says that Dolibarr 19 and newer do not start with it.
	Charset        string `json:"charset"`
	CharsetRefused bool   `json:"charset_refused"`
	// URL is the public address in conf.php.
	URL string `json:"url"`
	// PHP is PHP's version.
	PHP string `json:"php"`
	// Modules are the active ones, sorted, such as Societe.
	Modules []string `json:"modules"`
}

// Limits of what is read from a container, which is not trusted.
const (
	answerLimit = 1 << 20
	lineLimit   = 256 << 10
)

// ReadAnswer reads the tool's output to its end and gives each finished step to step, which may be nil. A refusal of the tool is an error
// of the code Precondition with the tool's hint, beside the answer; output without an answer is Internal, with its last line. Lines that
// are no JSON, such as warnings of PHP, are passed over.
func ReadAnswer(r io.Reader, step func(Step)) (Answer, error) {
	var answer Answer
	found, last := false, ""
	scan := bufio.NewScanner(io.LimitReader(r, answerLimit))
	scan.Buffer(nil, lineLimit)
	for scan.Scan() {
		line := bytes.TrimSpace(scan.Bytes())
		if len(line) == 0 {
			continue
		}
		last = string(line)
		var kind struct {
			OK   *bool   `json:"ok"`
			Step *string `json:"step"`
		}
		if json.Unmarshal(line, &kind) != nil {
			continue
		}
		switch {
		case kind.OK != nil:
			answer = Answer{}
			found = json.Unmarshal(line, &answer) == nil
		case kind.Step != nil && step != nil:
			var s Step
			if json.Unmarshal(line, &s) == nil {
				step(s)
			}
		}
	}
	switch {
	case scan.Err() != nil:
		return Answer{}, errs.New(errs.Internal, "the output of the tool cannot be read: %w", scan.Err())
	case !found:
		return Answer{}, errs.New(errs.Internal, "the tool broke off: %s", clip(last))
	case !answer.OK:
		return answer, errs.New(errs.Precondition, "%s", clip(answer.Error)).WithHint("%s", answer.Hint)
	}
	return answer, nil
}

func clip(text string) string {
	const most = 1000
	if text == "" {
		return "it printed nothing"
	}
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
