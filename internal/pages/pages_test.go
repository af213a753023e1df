package pages

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestPagesAreWholeAndSayEnough(t *testing.T) {
	for _, kind := range []Kind{Maintenance, Suspended, Unreachable, Preparing, Full} {
		fr, en, _ := words(kind)
		for language, want := range map[string][]string{"fr": {fr.Title}, "en": {en.Title}, "": {fr.Title, en.Title}} {
			w := httptest.NewRecorder()
			Page{Kind: kind, Language: language, Contact: "<b>{help@example.test}"}.ServeHTTP(w, nil)
			html := w.Body.String()
			if want := (Page{Kind: kind}).Status(); w.Code != want || (w.Header().Get("Retry-After") == "") != (kind == Full) {
				t.Errorf("kind %d: %d, %v", kind, w.Code, w.Header())
			}
			for _, title := range want {
				if !strings.Contains(html, "<h1 style=\"font-size:1.4rem\">"+title) {
					t.Errorf("kind %d in %q lacks %q", kind, language, title)
				}
			}
			if n := strings.Count(html, "<h1"); n != len(want) {
				t.Errorf("kind %d in %q has %d titles", kind, language, n)
			}
			if bad := regexp.MustCompile(`(?i)https?:|src=|<script|<link|url\(|[{}]`).FindString(html); bad != "" {
				t.Errorf("kind %d holds %q", kind, bad)
			}
			if strings.Contains(html, "<b>") || !strings.Contains(html, "help@example.test") {
				t.Errorf("kind %d: contact is not as text", kind)
			}
		}
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	for want, kind := range map[int]Kind{503: Suspended, 507: Full} {
		if got := (Page{Kind: kind}).Status(); got != want {
			t.Errorf("kind %d: %d", kind, got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for want, p := range map[string]Page{"300": {Kind: Maintenance}, "3600": {Kind: Suspended}, "2": {Kind: Maintenance, RetryAfter: 1500 * time.Millisecond}} {
		if got := p.Headers()["Retry-After"]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestUnknownKindIsAnError(t *testing.T) {
	if _, err := (Page{}).Render(); err == nil {
		t.Error("no error")
	}
}
