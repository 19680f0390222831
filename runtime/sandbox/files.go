package sandbox

import (
	"fmt"
	"path"
	"strings"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/files"
)

// checkFiles judges the places of the files. A folder that is really shared would keep a file after the run.
func (c *Config) checkFiles() error {
	for _, f := range c.Files {
		home, work := strings.HasPrefix(f.Path, bundle.Home+"/"), strings.HasPrefix(f.Path, bundle.Workspace+"/")
		if path.Clean(f.Path) != f.Path || !home && !work {
			return fmt.Errorf("%w: file %q is not below %s or %s", errConfig, f.Path, bundle.Home, bundle.Workspace)
		}
		if work && c.Workspace && !c.Changes {
			return fmt.Errorf("%w: file %q would be made in the folder that is shared: share a copy, or put it below %s", errConfig, f.Path, bundle.Home)
		}
		if _, err := files.Parse(f.Text); err != nil {
			return fmt.Errorf("%w: file %q: %w", errConfig, f.Path, err)
		}
	}
	return nil
}

func (c *Config) paths() []string {
	var all []string
	for _, f := range c.Files {
		all = append(all, f.Path)
	}
	return all
}

// renderFiles fills the files with what this run was granted.
func (s *Sandbox) renderFiles() ([]bundle.File, error) {
	var all []bundle.File
	for _, f := range s.cfg.Files {
		t, err := files.Parse(f.Text)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Path, err)
		}
		data, err := t.Render(s.grant.Entries)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Path, err)
		}
		all = append(all, bundle.File{Path: f.Path, Data: data})
	}
	return all, nil
}
