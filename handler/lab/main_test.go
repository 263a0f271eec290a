package main

import (
	"fmt"
	"os"
	"testing"
)

// buildDir is where the tests build the handler.
var buildDir string

// TestMain lets the test binary be the lab, which starts its children from its
// own executable.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		return
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "activity-archive-e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(status)
}
