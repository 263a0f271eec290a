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
// stdout, and returns what is wrong as [settings.Problems]. Secrets are left out,
// and so is any value with a problem: it may be a secret in the wrong place.
// Settings come from the environment and, where that lacks them, from
// local.settings.json beside host.json.
func PrintSettings(o Options) error {
	get, note, err := lookup(o)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Stdout, "%s\n\n", note)
	loaded, problems := settings.Load(get)
	wrong := map[string]bool{}
	for _, p := range problems {
		wrong[p.Setting] = true
	}
	table := tabwriter.NewWriter(o.Stdout, 0, 0, 2, ' ', 0)
	for _, setting := range settings.All() {
		value, given := settings.Given(get, setting.Name)
		from := "local.settings.json"
		if _, ok := settings.Given(o.Getenv, setting.Name); ok {
			from = "environment"
		}
		switch {
		case !given && setting.Default != "":
			value, from = setting.Default, "default"
		case !given:
			from = "not set"
		case wrong[setting.Name]:
			value = "(not shown, see below)"
		case setting.Secret:
			value = "(secret)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", setting.Name, value, from)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the settings: %w", err)
	}
	for _, note := range loaded.Notes {
		fmt.Fprintln(o.Stdout, "Note:", note)
	}
	return problems.Err()
}

// lookup returns where a command finds its settings, as [os.LookupEnv] does, and
// says it in a sentence.
func lookup(o Options) (get func(string) (string, bool), note string, err error) {
	path := filepath.Join(host.AppRoot(o.Getenv), "local.settings.json")
	local, err := host.ReadLocalSettings(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		note = fmt.Sprintf("There is no %s; settings come from the environment alone.", path)
	case err != nil:
		return nil, "", err
	default:
		note = fmt.Sprintf("Settings come from the environment and from %s.", path)
	}
	return settings.Lookup(o.Getenv, local), note, nil
}
