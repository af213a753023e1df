// Package imports reads the configuration of an existing VyOS router, as `show configuration commands` prints it or as people write
// it down, into the terms of a site file. It accounts for every line: nothing is lost silently.
package imports

import (
	"bufio"
	"io"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos"
)

// Limits of what is read.
const (
	maxLine  = 64 << 10
	maxLines = 100_000
)

// Class says what became of a line.
type Class string

// The classes. Every line is in exactly one.
const (
	// Used means that the site file says the same, or that it is always so.
	Used Class = "used"
	// Corrected means that the site file says something else in its place.
	Corrected Class = "corrected"
	// Dropped means that nothing takes its place, on purpose.
	Dropped Class = "dropped"
	// NotUnderstood means that somebody has to look.
	NotUnderstood Class = "not understood"
)

// Line is one line of the input.
type Line struct {
	// Number counts from 1.
	Number int
	// Text is the line with secret values hidden.
	Text string
	// Class says what became of it, Why says more.
	Class Class
	Why   string
}

// Plain reports whether the line is a comment or empty.
func (l Line) Plain() bool {
	text := strings.TrimSpace(l.Text)
	return text == "" || strings.HasPrefix(text, "#") || strings.Trim(text, "`") == ""
}

// Result is what was read.
type Result struct {
	// Fragment is a part of a site file.
	Fragment string
	// Lines are all lines of the input, in order.
	Lines []Line
	// Notes say what somebody has to decide.
	Notes []string
}

// Count returns how many lines are in a class.
func (r Result) Count(c Class) int {
	n := 0
	for _, l := range r.Lines {
		if l.Class == c {
			n++
		}
	}
	return n
}

// command is a set line on its way.
type command struct {
	words  vyos.Line
	line   *Line
	broken bool // its quote was not closed
}

// say gives the line its class. A line whose quote was mended stays corrected.
func (c *command) say(class Class, why string) {
	if c.broken && class == Used {
		class = Corrected
	}
	if c.broken {
		why = "its quote was not closed, and a shell would have swallowed what follows; " + why
	}
	c.line.Class, c.line.Why = class, why
}

// Read reads a configuration. Errors: Invalid for input that is too large or no text.
func Read(r io.Reader) (Result, error) {
	var lines []*Line
	var commands []*command
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 4096), maxLine)
	for scanner.Scan() {
		if len(lines) == maxLines {
			return Result{}, errs.New(errs.Invalid, "more than %d lines", maxLines)
		}
		l := &Line{Number: len(lines) + 1, Text: strings.ToValidUTF8(strings.TrimRight(scanner.Text(), " \t\r"), "?")}
		lines = append(lines, l)
		if c := scan(l); c != nil {
			commands = append(commands, c)
		}
	}
	if err := scanner.Err(); err != nil {
		return Result{}, errs.New(errs.Invalid, "the input cannot be read: %w", err)
	}
	b := newBuilder(commands)
	b.build()
	out := Result{Fragment: b.yaml(), Notes: b.notes}
	for _, l := range lines {
		out.Lines = append(out.Lines, *l)
	}
	return out, nil
}

// scan gives every line but set commands its class at once.
func scan(l *Line) *command {
	text := strings.TrimSpace(l.Text)
	drop := func(why string) *command { l.Class, l.Why = Dropped, why; return nil }
	first, _, _ := strings.Cut(text, " ")
	switch {
	case text == "":
		return drop("an empty line")
	case strings.HasPrefix(text, "#"):
		return drop("a comment")
	case strings.Trim(text, "`") == "":
		return drop("a fence around the listing")
	case first == "set":
		return setCommand(l, text)
	case first == "delete":
		l.Class, l.Why = NotUnderstood, "only set lines are read: give what `show configuration commands` prints"
		return nil
	case strings.HasPrefix(text, "commit"), first == "save", first == "configure", first == "exit":
		return drop("a step of the session, no configuration")
	case first == "generate" || strings.HasPrefix(text, "run generate"):
		return drop("makes a client's configuration by hand: `infractl vpn peer add NAME` does it")
	case strings.HasPrefix(text, "wg genkey"):
		return drop("makes keys in a place that is lost at an upgrade: the router makes its own key and keeps it in /config")
	case strings.HasPrefix(text, "[Interface") || strings.HasPrefix(text, "[Peer"):
		return drop("the client's own configuration: `infractl vpn peer add NAME` prints a new one")
	}
	if word, value, ok := strings.Cut(text, "="); ok && !strings.ContainsAny(strings.TrimSpace(word), " \t") {
		switch word = strings.TrimSpace(word); word {
		case "PrivateKey", "PresharedKey":
			l.Text = word + " = (hidden)"
			return drop("the client's key: `infractl vpn peer add NAME` takes or makes one")
		case "Address":
			return drop("the client's address: the server gives out addresses of the tunnel's network, so that allowed-ips always fit")
		case "DNS":
			return drop("the client's resolver: clients get the site's own, or internal names would not resolve")
		case "AllowedIPs":
			return drop("what the client sends into the tunnel: clients get the site's inside networks, not everything")
		case "PublicKey", "Endpoint":
			_ = value
			return drop("the client's own configuration: `infractl vpn peer add NAME` prints a new one")
		}
	}
	l.Class, l.Why = NotUnderstood, "no command"
	if strings.Contains(text, "$") && len(text) > 20 || strings.Contains(strings.ToLower(text), "password") {
		l.Text = "(hidden: it may hold a password)"
		l.Why = "no command; it may be the rest of the line before"
	}
	return nil
}

func setCommand(l *Line, text string) *command {
	c := &command{line: l}
	words, err := vyos.ParseLine(text)
	for _, quote := range []string{"'", `"`} {
		if err != nil {
			c.broken = true
			words, err = vyos.ParseLine(text + quote)
		}
	}
	if err != nil || len(words) == 0 {
		l.Class, l.Why = NotUnderstood, "the command cannot be read"
		return nil
	}
	c.words = words
	if hidden := words.Redacted(); hidden != words.String() {
		l.Text = hidden
	}
	c.say(NotUnderstood, "nothing in a site file says this")
	return c
}
