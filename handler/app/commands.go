package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"activityarchive/handler/host"
	"activityarchive/handler/settings"
)

// PrintSettings writes each setting, its value and where that comes from to
// stdout, secrets left out, and returns what is wrong as [settings.Problems].
// Settings come from the environment and, where that lacks them, from
// local.settings.json beside host.json.
func PrintSettings(o Options) error {
	local, err := localSettings(o)
	if err != nil {
		return err
	}
	get := settings.Lookup(o.Getenv, local)
	table := tabwriter.NewWriter(o.Stdout, 0, 0, 2, ' ', 0)
	for _, setting := range settings.All() {
		value, from := "", "not set"
		if v, ok := get(setting.Name); ok && v != "" {
			value, from = v, "environment"
			if e, ok := o.Getenv(setting.Name); !ok || e == "" {
				from = "local.settings.json"
			}
		} else if setting.Default != "" {
			value, from = setting.Default, "default"
		}
		if setting.Secret && value != "" {
			value = "(secret)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", setting.Name, value, from)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the settings: %w", err)
	}
	s, problems := settings.Load(get)
	for _, note := range s.Notes {
		fmt.Fprintln(o.Stdout, "Note:", note)
	}
	return problems.Err()
}

// localSettings reads local.settings.json; without the file there are none.
func localSettings(o Options) (map[string]string, error) {
	local, err := host.ReadLocalSettings(filepath.Join(host.AppRoot(o.Getenv), "local.settings.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return local, err
}
