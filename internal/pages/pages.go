// Package pages makes the pages that customers see in place of their Dolibarr: suspended, under maintenance, not reachable, full. The front
// of a host and the site's proxy show the same ones. They are whole: no style sheet, no script, no picture from elsewhere.
package pages

import (
	_ "embed"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// The texts are filled in by hand: html/template keeps the linker from dropping unused methods anywhere in the program, which costs the
// agent 5 MB.
var (
	//go:embed page.html
	frame string
	//go:embed section.html
	section string
)

// Kind says why a page is shown.
type Kind int

// The kinds.
const (
	// Maintenance is work that was announced: an upgrade, a move.
	Maintenance Kind = iota + 1
	// Suspended is an instance that was switched off on purpose.
	Suspended
	// Unreachable is an instance that does not answer.
	Unreachable
	// Preparing is a name whose certificate, or whose instance, is on its way.
	Preparing
	// Full is the answer to what brings data into an instance whose space is used up.
	Full
)

// Page is one page.
type Page struct {
	// Kind says why it is shown.
	Kind Kind
	// Language is fr or en; any other shows both, French first.
	Language string
	// Contact is whom to ask, such as an e-mail address; empty for nobody.
	Contact string
	// RetryAfter is when to come again; 0 means 5 min, an hour where it is Suspended. It does not help where it is Full.
	RetryAfter time.Duration
}

// Status is the HTTP status that goes with the page.
func (p Page) Status() int {
	if p.Kind == Full {
		return http.StatusInsufficientStorage
	}
	return http.StatusServiceUnavailable
}

// text is a page's words in one language.
type text struct{ Language, Title, Body, Ask string }

func words(k Kind) (fr, en text, ok bool) {
	fr, en = text{Language: "fr", Ask: "Contact :"}, text{Language: "en", Ask: "Contact:"}
	switch k {
	case Maintenance:
		fr.Title, fr.Body = "Maintenance en cours", "Une intervention est en cours sur ce service. Vos données sont intactes. Merci de revenir dans quelques minutes."
		en.Title, en.Body = "Maintenance in progress", "This service is being worked on. Your data is safe. Please come back in a few minutes."
	case Suspended:
		fr.Title, fr.Body = "Service suspendu", "L'accès à ce service est suspendu. Vos données sont conservées."
		en.Title, en.Body = "Service suspended", "Access to this service is suspended. Your data is kept."
	case Unreachable:
		fr.Title, fr.Body = "Service momentanément indisponible", "Le service ne répond pas pour le moment. Merci de réessayer dans quelques minutes."
		en.Title, en.Body = "Service temporarily unavailable", "The service does not answer at the moment. Please try again in a few minutes."
	case Preparing:
		fr.Title, fr.Body = "Service en préparation", "Cette adresse est en cours de mise en service. Merci de revenir un peu plus tard."
		en.Title, en.Body = "Service being prepared", "This address is being set up. Please come back a little later."
	case Full:
		fr.Title = "Espace de stockage épuisé"
		fr.Body = "Ce que vous venez d'envoyer n'a pas été enregistré : l'espace de ce service est épuisé. La consultation, la saisie courante et la suppression" +
			" restent possibles. Supprimez des documents devenus inutiles, puis réessayez après quelques minutes, ou demandez plus d'espace à votre prestataire."
		en.Title = "Storage space used up"
		en.Body = "What you have just sent was not stored: the space of this service is used up. Reading, everyday entries and deleting go on working." +
			" Delete documents that are not needed any more and try again after some minutes, or ask your provider for more space."
	default:
		return fr, en, false
	}
	return fr, en, true
}

// Render returns the page as HTML in UTF-8. It holds no brace, because some servers replace what stands in them. Errors: Invalid for an
// unknown kind.
func (p Page) Render() ([]byte, error) {
	fr, en, ok := words(p.Kind)
	if !ok {
		return nil, errs.New(errs.Invalid, "there is no page of kind %d", p.Kind)
	}
	language, title, texts := "fr", fr.Title+" - "+en.Title, []text{fr, en}
	switch p.Language {
	case "fr":
		title, texts = fr.Title, []text{fr}
	case "en":
		language, title, texts = "en", en.Title, []text{en}
	}
	var sections strings.Builder
	for _, t := range texts {
		contact := ""
		if p.Contact != "" {
			contact = "<p>" + escape(t.Ask+" "+p.Contact) + "</p>\n"
		}
		sections.WriteString(strings.NewReplacer("@LANGUAGE@", t.Language, "@TITLE@", escape(t.Title), "@BODY@", escape(t.Body),
			"@CONTACT@", contact).Replace(section))
	}
	return []byte(strings.NewReplacer("@LANGUAGE@", language, "@TITLE@", escape(title), "@TEXTS@", sections.String()).Replace(frame)), nil
}

// escape makes text safe in HTML; braces too, since a contact is free text.
func escape(s string) string {
	return strings.NewReplacer("{", "&#123;", "}", "&#125;").Replace(html.EscapeString(s))
}

// Headers are those that go with the page.
func (p Page) Headers() map[string]string {
	after := p.RetryAfter
	switch {
	case after > 0:
	case p.Kind == Suspended:
		after = time.Hour
	default:
		after = 5 * time.Minute
	}
	headers := map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Robots-Tag": "noindex",
		"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
	}
	if p.Kind != Full { // nothing mends itself there
		headers["Retry-After"] = strconv.Itoa(int((after + time.Second - 1) / time.Second))
	}
	return headers
}

// ServeHTTP implements http.Handler.
func (p Page) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body, err := p.Render()
	if err != nil {
		http.Error(w, http.StatusText(p.Status()), p.Status())
		return
	}
	for k, v := range p.Headers() {
		w.Header().Set(k, v)
	}
	w.WriteHeader(p.Status())
	_, _ = w.Write(body)
}

// Handler is the page as a handler of Caddy's configuration.
func (p Page) Handler() (map[string]any, error) {
	body, err := p.Render()
	if err != nil {
		return nil, err
	}
	headers := map[string]any{}
	for k, v := range p.Headers() {
		headers[k] = []string{v}
	}
	return map[string]any{"handler": "static_response", "status_code": p.Status(), "headers": headers, "body": string(body)}, nil
}
