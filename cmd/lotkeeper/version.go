package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionResult is what version prints.
type versionResult struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

func newVersion(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  lotkeeper version\n  lotkeeper version -o json",
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			v := versionResult{Version: buildVersion(), Go: runtime.Version()}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			return result(a, v, func(s *screen) {
				s.fields("", notEmpty([]string{"lotkeeper", v.Version, "revision", v.Revision, "go", v.Go})...)
			})
		},
	}
	annotate(cmd, annotationNoConfig, "yes")
	exits(cmd)
	return cmd
}
