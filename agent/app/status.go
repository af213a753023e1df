package app

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/agent/engine"
	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how the agent of this machine stands", Args: cobra.NoArgs,
		Long: "Show who this machine is in its site, whether it is connected, and how far it is with what is wanted. It asks nobody.",
		RunE: func(*cobra.Command, []string) error {
			return showStatus(o.out, host.New(host.Config{}), o.stateDir)
		},
	}
}

// showStatus prints what the files of the agent say. It writes none.
func showStatus(out io.Writer, h *host.Host, stateDir string) error {
	clk := enrol.NewClock(clock.System{}, nil)
	store := enrol.NewStore(h, stateDir, clk)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("agent", "%s", version.String())
	list, err := store.Identities()
	switch {
	case errs.Is(err, errs.NotFound):
		row("identity", "none: %s", "waiting for a join token or for approval")
	case err != nil:
		row("identity", "cannot be read: %v", err)
	default:
		id := list[len(list)-1]
		row("identity", "%s", id.Identity.URI())
		row("certificate", "%s, valid until %s (%s)", id.Serial(), stamp(id.Leaf.NotAfter), left(id.Leaf.NotAfter.Sub(clk.Now())))
	}
	if skew := -clk.Offset(); skew.Abs() >= time.Second {
		row("clock", "%s ahead of the server's", skew.Round(time.Second))
	}
	row("session", "%s", sessionLine(h, stateDir))
	e, err := engine.New(engine.Config{Host: h, Dir: stateDir, Clock: clk, Log: hclog.NewNullLogger()})
	if err != nil {
		return err
	}
	stateRows(row, e.State())
	return w.Flush()
}

func stateRows(row func(string, string, ...any), st *v1.HostState) {
	switch {
	case st.GetSpecDigest() == "":
		row("host", "nothing was applied yet")
	case st.GetNarrowedDigest() == st.GetSpecDigest():
		row("host", "all that it should be, site revision %d", st.GetSiteRevision())
	case st.GetWidenedDigest() == st.GetSpecDigest():
		row("host", "site revision %d, old ways still open", st.GetSiteRevision())
	default:
		row("host", "site revision %d is not kept", st.GetSiteRevision())
	}
	if id := st.GetArmedCommit(); id != "" {
		row("commit", "%s is not decided", id)
	}
	for _, line := range st.GetWidened() {
		row("still open", "%s", line)
	}
	for _, line := range st.GetDegraded() {
		row("degraded", "%s", line)
	}
	for _, c := range st.GetDrift() {
		row("drift", "%s: %s", c.GetProvider(), c.GetSubject())
	}
}

func sessionLine(h *host.Host, stateDir string) string {
	data, err := h.ReadFile(StatusFile(stateDir))
	if err != nil {
		return "the agent does not run"
	}
	var st session.Status
	if json.Unmarshal(data, &st) != nil {
		return "not known"
	}
	if st.Connected {
		return fmt.Sprintf("connected to %s since %s", st.Server, stamp(st.Since))
	}
	return fmt.Sprintf("none since %s: %s", stamp(st.Since), st.Problem)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func left(d time.Duration) string {
	if d < 0 {
		return "expired"
	}
	return d.Round(time.Minute).String() + " left"
}
