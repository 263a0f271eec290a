package main_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "activityarchive/"
	lab    = "handler/lab"
)

// imports says which packages of this module each package may import. What
// stands in no line may import none of them.
var imports = map[string][]string{
	"handler/settings": {},
	"handler/host":     {},
	"handler/record":   {},
	"handler/activity": {},
	"handler/cosmos":   {},
	"handler/ledger":   {"handler/cosmos"},
	"handler/archive":  {"handler/cosmos", "handler/record"},
	"handler/collect":  {"handler/activity", "handler/archive", "handler/cosmos", "handler/ledger", "handler/record"},
	"webhook":          {"handler/activity", "handler/collect", "handler/cosmos", "handler/ledger"},
	"timer":            {"handler/activity", "handler/collect", "handler/cosmos", "handler/ledger"},
	"handler/app": {
		"handler/activity", "handler/archive", "handler/collect", "handler/cosmos", "handler/host",
		"handler/ledger", "handler/record", "handler/settings", "timer", "webhook",
	},
	"handler": {"handler/app", "handler/settings"},
}

// topLevel is what the root of the repository holds, and what git never
// commits there.
var topLevel = []string{
	"handler", "webhook", "timer", "host.json", "local.settings.json.example", "go.mod", "go.sum", "Makefile", "README.md",
	".ci", ".gitignore", ".funcignore", "LICENSE", "CHANGELOG.md", "SECURITY.md", "infra",
	".git", "local.settings.json",
}

// source is one parsed Go file.
type source struct {
	name string // from the root, with slashes
	dir  string
	test bool
	set  *token.FileSet
	file *ast.File
}

func (s source) at(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.set.Position(n.Pos()).Line)
}

// ours lists what s imports of this module, from the root.
func (s source) ours(t *testing.T) (list []string) {
	t.Helper()
	for _, spec := range s.file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", s.at(spec), err)
		}
		if rest, ok := strings.CutPrefix(name, module); ok {
			list = append(list, rest)
		}
	}
	return list
}

// inLab reports whether a folder or package belongs to the lab.
func inLab(name string) bool { return name == lab || strings.HasPrefix(name, lab+"/") }

// sources parses every Go file of the repository.
func sources(t *testing.T) (list []source) {
	t.Helper()
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || (name != "." && strings.HasPrefix(d.Name(), "."))) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join("..", filepath.FromSlash(name)), nil, parser.ParseComments)
		if err != nil {
			return err
		}
		list = append(list, source{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), set, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestImportsPointOneWay(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		allowed, known := imports[s.dir]
		if !known && !inLab(s.dir) {
			t.Errorf("%s: package %s stands in no import rule. A package needs a sentence of its own: add the line to imports, with as few entries as it can live with", s.name, s.dir)
			continue
		}
		for _, name := range s.ours(t) {
			switch {
			case inLab(s.dir) && !inLab(name):
				t.Errorf("%s imports %s: the lab shares no code with what it tests, or an error in it would hide itself; only the lab's tests may", s.name, name)
			case !inLab(s.dir) && inLab(name):
				t.Errorf("%s imports %s: the lab and what it needs must not get into the product", s.name, name)
			case !inLab(s.dir) && !slices.Contains(allowed, name):
				t.Errorf("%s imports %s: imports point one way, from webhook and timer to collect, and on to activity, archive, ledger, record and cosmos; webhook and timer do not know each other, and only main knows app", s.name, name)
			}
		}
	}
}

func TestProductTestsLeaveTheLabAlone(t *testing.T) {
	for _, s := range sources(t) {
		for _, name := range s.ours(t) {
			if !inLab(s.dir) && inLab(name) {
				t.Errorf("%s imports %s: the lab is a module of its own, and its needs stay out of the product's go.mod", s.name, name)
			}
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	count := map[string]int{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		count[s.dir] += 0
		if s.file.Doc == nil {
			continue
		}
		count[s.dir]++
		first := strings.Fields(s.file.Doc.Text())
		if want := s.file.Name.Name; want != "main" && (len(first) < 2 || first[0] != "Package" || first[1] != want) {
			t.Errorf("%s: the package comment does not begin with %q", s.name, "Package "+want)
		}
	}
	for dir, n := range count {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want exactly one: it is the package's contract", dir, n)
		}
	}
}

func TestNoSleepNoInit(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && n.Sel.Name == "Sleep" && !s.test && !inLab(s.dir) {
					t.Errorf("%s: time.Sleep is deaf to the end of its context: select on a timer and ctx.Done()", s.at(n))
				}
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: init runs before anyone can decide or see an error: do it where it is needed", s.at(n))
				}
			}
			return true
		})
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s lies at the top of the repository: the Functions host takes each folder there for a function, so it holds the two functions, the handler and what builds and deploys them, no more", e.Name())
		}
	}
}

// The v4 CLI matches each line of .funcignore as the beginning of a path, so a
// folder that is let in brings everything in it.
func TestPackageHoldsOnlyWhatTheHostReads(t *testing.T) {
	text, err := os.ReadFile("../.funcignore")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	want := []string{"*", "!host.json", "!handler/handler", "!webhook/function.json", "!timer/function.json"}
	if !slices.Equal(lines, want) {
		t.Errorf(".funcignore says %q, want %q", lines, want)
	}
}

// The roles let the collector do what it does and nothing else: even with its
// identity stolen, no record that is in the archive can be altered or deleted.
func TestRoles(t *testing.T) {
	const account = "Microsoft.DocumentDB/databaseAccounts/"
	const container = account + "sqlDatabases/containers/"
	read := []string{account + "readMetadata", container + "executeQuery", container + "items/create", container + "items/read", container + "readChangeFeed"}
	want := map[string]struct {
		scope   string
		actions []string // sorted
	}{
		"metadata": {"/", []string{account + "readMetadata"}},
		"records":  {"/dbs/Audit/colls/Audits", read},
		"ledger":   {"/dbs/Audit/colls/ArchiveState", slices.Insert(slices.Clone(read), 4, container+"items/replace")},
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../infra/cosmos-role-*.json")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%q, %v: want %d role definitions", files, err, len(want))
	}
	for name, w := range want {
		text, err := os.ReadFile("../infra/cosmos-role-" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var role struct {
			ID, Type         string
			AssignableScopes []string
			Permissions      []map[string][]string
		}
		if err := json.Unmarshal(text, &role); err != nil || role.Type != "CustomRole" || len(role.Permissions) != 1 || len(role.Permissions[0]) != 1 {
			t.Errorf("%s: %+v, %v", name, role, err)
			continue
		}
		if got := slices.Sorted(slices.Values(role.Permissions[0]["DataActions"])); !slices.Equal(got, w.actions) || !slices.Equal(role.AssignableScopes, []string{w.scope}) {
			t.Errorf("role %s allows %q on %q, want %q on %q", name, got, role.AssignableScopes, w.actions, w.scope)
		}
		if line := "\n" + name + " " + role.ID + " " + w.scope + "\n"; !strings.Contains(string(readme), line) {
			t.Errorf("README assigns no role by the line %q", strings.TrimSpace(line))
		}
	}
}

// What the roles do not allow, no code asks for.
func TestArchiveOnlyCreates(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || inLab(s.dir) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch name := selector.Sel.Name; name {
			case "UpsertItem", "DeleteItem", "PatchItem", "Delete":
				if s.dir == "handler/cosmos" {
					t.Errorf("%s: %s: nothing in Cosmos DB is overwritten unseen, patched or deleted", s.at(n), name)
				}
			case "Replace", "ReplaceItem":
				if s.dir == "handler/archive" {
					t.Errorf("%s: %s: a record is only ever created", s.at(n), name)
				}
			}
			return true
		})
	}
}
