package sitefile

import (
	"reflect"

	"github.com/infractl/infractl/internal/site/yamltree"
)

// form is how a scalar is written: for people, and as a pattern for editors. A pattern may let more pass than the reader
// does, never less.
type form struct {
	words, pattern string
}

func formOf(t reflect.Type) (form, bool) {
	switch t {
	case reflect.TypeFor[Addr]():
		return form{"address", `^[0-9a-fA-F.:]+$`}, true
	case reflect.TypeFor[Prefix]():
		return form{"network, as 10.0.10.0/24", `^[0-9a-fA-F.:]+/[0-9]+$`}, true
	case reflect.TypeFor[PortSpec]():
		return form{"port, as 443/tcp, 1000-1010/udp or ssh", `^(ssh|[0-9]+(-[0-9]+)?/(tcp|udp))$`}, true
	case reflect.TypeFor[Duration]():
		return form{"length of time, as 30s, 4h or 90d", `^[0-9.a-zµ]+$`}, true
	case reflect.TypeFor[Size]():
		return form{"size, as 512M", `^[0-9]+[KMG]$`}, true
	case reflect.TypeFor[DomainName]():
		return form{"domain name", `^[a-z0-9.-]+$`}, true
	case reflect.TypeFor[NTPServer]():
		return form{"name or address", `^[a-zA-Z0-9.:-]+$`}, true
	case reflect.TypeFor[HostOrAddr]():
		return form{"name or address", `^[a-z0-9A-F.:-]+$`}, true
	case reflect.TypeFor[SSHKey]():
		return form{"public SSH key", `^\s*[a-z0-9@.-]+ [A-Za-z0-9+/=]+`}, true
	case reflect.TypeFor[RelPath]():
		return form{"path below the file's folder", `^[^/\\].*$`}, true
	case reflect.TypeFor[HostPort]():
		return form{"host and port, as srv-prod:3000", `^[a-z0-9.-]+:[0-9]+$`}, true
	case reflect.TypeFor[Email]():
		return form{"mail address", `^\S+@\S+$`}, true
	case reflect.TypeFor[URL]():
		return form{"https URL", `^https://.+$`}, true
	case reflect.TypeFor[Schedule]():
		return form{"schedule, as daily at 02:00", scheduleForm.String()}, true
	case reflect.TypeFor[Window]():
		return form{"time of the week, as Sun 02:00-05:00", windowForm.String()}, true
	}
	return form{}, false
}

// words says in words what a value of the type is.
func words(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		return words(t.Elem())
	}
	if f, ok := formOf(t); ok {
		return f.words
	}
	if t == reflect.TypeFor[Port]() {
		return "port number"
	}
	if elem, ok := yamltree.MapElem(t); ok {
		return "mapping of names to: " + words(elem)
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list of: " + words(t.Elem())
	case reflect.Struct:
		return "section"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	}
	return "number"
}
