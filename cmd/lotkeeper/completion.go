package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func newCompletion(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	cmd := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete commands and flags",
		Long: `Print the script that makes a shell complete commands, flags and their values:
bash (with the package bash-completion), zsh or fish.`,
		Example: `  source <(lotkeeper completion bash)
  lotkeeper completion zsh > "${fpath[1]}/_lotkeeper"
  lotkeeper completion fish > ~/.config/fish/completions/lotkeeper.fish`,
		Args:      arguments("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.out, true)
			}
			return usagef("SHELL must be one of %s, not %q", strings.Join(shells, ", "), args[0])
		},
	}
	annotate(cmd, annotationNoConfig, "yes")
	exits(cmd, exitFailed)
	return cmd
}
