package manpage

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func page(t *testing.T) string {
	t.Helper()
	root := &cobra.Command{Use: "tool", Short: "Do things", Long: "It does.\n\n.SH not a heading\n'nor this"}
	root.PersistentFlags().String("dir", "/var/x", "folder of `DIR`")
	run := &cobra.Command{Use: "run-it [NAME]", Short: "Run", Example: "  tool run-it \"a\\b\"", Run: func(*cobra.Command, []string) {}}
	run.Flags().BoolP("fast", "f", false, "be fast")
	secret := &cobra.Command{Use: "secret", Short: "Not for people", Hidden: true, Run: func(*cobra.Command, []string) {}}
	root.AddCommand(run, secret, Command(8))
	var b bytes.Buffer
	if err := Write(&b, root, 8, "1.2-3"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPageHasEveryCommandAndFlag(t *testing.T) {
	got := page(t)
	for _, want := range []string{`.TH TOOL 8 "" "tool 1.2\-3"`, `tool \- Do things`, `.SS tool run\-it [NAME] [flags]`, `.B \-f, \-\-fast`,
		`\-\-dir DIR`, "folder of DIR (default /var/x)", `tool run\-it \(dqa\eb\(dq`, "\n\\&.SH not a heading\n\\&'nor this\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "secret") || strings.Contains(got, "tool man") {
		t.Errorf("a hidden command is shown:\n%s", got)
	}
}

func TestSameCommandsGiveSamePage(t *testing.T) {
	if first, second := page(t), page(t); first != second {
		t.Error("two pages differ")
	}
}
