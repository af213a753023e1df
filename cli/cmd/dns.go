package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) dnsCmd() *cobra.Command {
	return group("dns", "Show the names that the site makes, and check that they are answered", a.dnsListCmd(), a.dnsCheckCmd())
}

func (a *app) dnsListCmd() *cobra.Command {
	var files siteFlags
	var public bool
	c := &cobra.Command{
		Use: "list", Short: "List the records of the site's zones, or those to set in public",
		Long: `List the records of the site's zones. With --public: what must be set at the registrar or DNS provider of the public domain.
With -f the names of a file are shown without a server; those of instances are not among them then.`,
		Example: "  infractl dns list\n  infractl dns list --public\n  infractl dns list -f site.yaml",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("file") || c.Flags().Changed("overlay") {
				return a.dnsOffline(files, public)
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewDnsServiceClient(conn).ListRecords(ctx, &v1.ListRecordsRequest{Public: public})
				if err != nil {
					return err
				}
				return w.Message(list, func() error { return a.showRecords(w, list.GetRecords(), public) })
			})
		},
	}
	files.add(c)
	c.Flags().BoolVar(&public, "public", false, "what must be set in public")
	return c
}

func (a *app) dnsOffline(files siteFlags, public bool) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	src, err := files.read()
	if err != nil {
		return err
	}
	s, err := a.check(src)
	if err != nil {
		return err
	}
	list := &v1.ListRecordsResponse{Records: s.DNSRecords(site.Resources{}, public)}
	return w.Message(list, func() error { return a.showRecords(w, list.GetRecords(), public) })
}

func (a *app) showRecords(w *output.Writer, list []*v1.Record, public bool) error {
	var rows [][]string
	views := false
	for _, r := range list {
		views = views || r.GetView() != ""
	}
	for _, r := range list {
		row := []string{output.Line(r.GetName()), r.GetType(), output.Line(r.GetValue()), fmt.Sprint(r.GetTtl()), output.Line(r.GetReason())}
		if views {
			row = append(row, dash(r.GetView()))
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 && public {
		a.note("nothing must be set in public")
	}
	head := []string{"NAME", "TYPE", "VALUE", "TTL", "REASON"}
	if views {
		head = append(head, "VIEW")
	}
	return w.Rows(head, rows)
}

func (a *app) dnsCheckCmd() *cobra.Command {
	var public bool
	c := &cobra.Command{
		Use: "check", Short: "Ask for every record and compare the answers",
		Long: `Let the server ask the site's name servers for every record, and compare the answers. With --public it asks the outside resolvers of
dns.forwarders for what must be set in public.`,
		Example: "  infractl dns check\n  infractl dns check --public -o json",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				resp, err := v1.NewDnsServiceClient(conn).CheckRecords(ctx, &v1.CheckRecordsRequest{Public: public})
				if err != nil {
					return err
				}
				if err := w.Message(resp, func() error { return showChecks(w, resp) }); err != nil {
					return err
				}
				if n := resp.GetBad(); n > 0 {
					return exitError{ExitFailed, fmt.Sprintf("%d record(s) are not answered as they should be", n)}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&public, "public", false, "check what must be set in public")
	exits(c, true, meaning{ExitOK, "every record is answered as it should be"}, meaning{ExitFailed, "some are not"})
	return c
}

func showChecks(w *output.Writer, resp *v1.CheckRecordsResponse) error {
	var rows [][]string
	for _, k := range resp.GetChecks() {
		if !k.GetOk() {
			r := k.GetRecord()
			rows = append(rows, []string{output.Line(r.GetName()), r.GetType(), output.Line(r.GetValue()), k.GetServer(),
				output.Line(strings.TrimSpace(k.GetProblem()))})
		}
	}
	if len(rows) > 0 {
		if err := w.Rows([]string{"NAME", "TYPE", "WANTED", "SERVER", "PROBLEM"}, rows); err != nil {
			return err
		}
	}
	w.Printf("%d answered as they should be, %d not\n", resp.GetGood(), resp.GetBad())
	return nil
}
