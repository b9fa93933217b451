package dramnode_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/dramnode/dramnode"

// anything stands for every package of the module.
const anything = "*"

// mayImport holds which packages of this module each package, with all below it, may import. Imports
// point down: cmd, examples, test -> node, gateway, client, ucxnet -> router, replica, control, gossip,
// storage -> ring, wire, transport -> the root. A package never needs more than what stands here; a new
// one needs a line of its own. A test file may import what its package may, and what testMay adds.
var mayImport = map[string][]string{
	".":                       {},
	"transport":               {"."},
	"transport/memnet":        {".", "transport"},
	"transport/transporttest": {".", "transport"},
	"ring":                    {"."},
	"wire":                    {"."},
	"internal":                {},
	"config":                  {"."},
	"storage":                 {".", "ring", "wire", "internal"},
	"gossip":                  {".", "ring", "wire", "transport", "internal"},
	"control":                 {".", "ring", "wire", "transport", "internal"},
	"control/state":           {".", "ring", "internal"},
	"control/lease":           {".", "ring", "control/state", "internal"},
	"control/leader":          {".", "ring", "control/state", "control/lease", "internal"},
	"control/group":           {".", "ring", "control/state", "control/lease", "control/leader", "internal"},
	"control/member":          {".", "ring", "control/state", "control/lease", "control/leader", "control/group", "internal"},
	"replica":                 {".", "ring", "wire", "transport", "control/state", "internal"},
	"replica/arena":           {".", "replica", "storage", "wire", "internal"},
	"replica/storetest":       {".", "replica", "replica/memstore", "replica/arena", "storage"},
	// The table is package control's noun; the router and the client read it.
	"router": {".", "ring", "wire", "transport", "control", "internal"},
	"ucxnet": {".", "transport", "wire"},
	"client": {".", "ring", "wire", "transport", "router", "control", "internal"},
	"node": {
		".", "ring", "wire", "transport", "router", "replica", "replica/arena", "gossip", "storage", "internal",
		"control", "control/state", "control/lease", "control/leader", "control/group", "control/member",
	},
	"gateway":             {".", "client", "control", "internal"},
	"gateway/conformance": {".", "client"},
	"gateway/gatewaytest": {".", "client", "control", "gateway", "node", "ring", "test/proc", "transport", "transport/memnet", "internal"},
	"load":                {".", "client", "transport", "internal"},
	"cmd":                 {anything},
	"examples":            {anything},
	"test":                {anything},
	"bench":               {anything},
	"scripts":             {},
}

// testMay holds what every test may import besides: fakes and suites.
var testMay = []string{"test/proc", "test/history", "transport/memnet", "transport/transporttest", "gateway/gatewaytest", "gateway/conformance"}

// mayCgo is the only package that imports "C" or "unsafe".
const mayCgo = "ucxnet"

// A source is one Go file of the module.
type source struct {
	path string // from the module's root, with slashes
	dir  string
	test bool
	file *ast.File
}

var fileSet = token.NewFileSet()

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		f, err := parser.ParseFile(fileSet, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		slash := filepath.ToSlash(name)
		all = append(all, source{path: slash, dir: path.Dir(slash), test: strings.HasSuffix(name, "_test.go"), file: f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found %d Go files: the walk does not see the module", len(all))
	}
	return all
}

func (s source) imports() []string {
	var paths []string
	for _, im := range s.file.Imports {
		if p, err := strconv.Unquote(im.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// within reports whether dir is parent or lies in it.
func within(dir, parent string) bool {
	return dir == parent || parent != "." && strings.HasPrefix(dir, parent+"/")
}

// rule returns the longest entry of mayImport that holds for dir.
func rule(dir string) (name string, ok bool) {
	for entry := range mayImport {
		if within(dir, entry) && (!ok || len(entry) > len(name)) {
			name, ok = entry, true
		}
	}
	return name, ok
}

// allowed reports whether a file in dir may import the package in the folder target.
func allowed(dir, target string, test bool) bool {
	name, ok := rule(dir)
	if !ok {
		return false
	}
	may := append([]string{name}, mayImport[name]...)
	if test {
		may = append(may, testMay...)
	}
	return slices.ContainsFunc(may, func(m string) bool {
		if m == anything || m == target {
			return true
		}
		entry, ok := rule(target)
		return ok && entry == m && m != "."
	})
}

func TestImportsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		if _, ok := rule(s.dir); !ok {
			t.Errorf("%s: package %s has no line in mayImport", s.path, s.dir)
			continue
		}
		for _, p := range s.imports() {
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			target := strings.TrimPrefix(strings.TrimPrefix(p, module), "/")
			if target == "" {
				target = "."
			}
			if !allowed(s.dir, target, s.test) {
				t.Errorf("%s imports %s; %s may import %v", s.path, target, s.dir, mayImport[s.dir])
			}
		}
	}
}

// TestImportRules holds the promises that the table must not lose.
func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		dir, target string
		want        bool
	}{
		{"storage", "ucxnet", false}, {"ucxnet", "storage", false},
		{"client", "node", false}, {"client", "ucxnet", false}, {"client", "storage", false},
		{"ucxnet", "transport", true}, {"ucxnet", "wire", true}, {"ucxnet", "ring", false},
		{"wire", "transport", false}, {"transport", "wire", false}, {"ring", "wire", false}, {".", "wire", false},
		{"transport/memnet", "transport", true}, {"node", "transport/memnet", false},
		{"gateway/s3", "client", true}, {"gateway/s3", "node", false}, {"gateway/s3", "gateway", true},
		{"cmd/dramnode", "ucxnet", true}, {"test/cluster", "node", true}, {"nowhere", ".", false},
	} {
		if got := allowed(c.dir, c.target, false); got != c.want {
			t.Errorf("%s may import %s: %v, want %v", c.dir, c.target, got, c.want)
		}
	}
}

func TestCgoStaysInUcxnet(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range s.imports() {
			if (p == "C" || p == "unsafe") && s.dir != mayCgo {
				t.Errorf("%s imports %q; only %s may", s.path, p, mayCgo)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			documented[s.dir] = documented[s.dir] || s.file.Doc != nil
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("the package in %s has no package comment", dir)
		}
	}
}

// TestNoSleepInTests: a test waits for what must happen. Inside a synctest bubble, where sleeping only
// moves a virtual clock, a file may sleep.
func TestNoSleepInTests(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || within(s.dir, "test") || slices.Contains(s.imports(), "testing/synctest") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%v: time.Sleep in a test", fileSet.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// TestExportedAreDocumented looks at exported functions, methods of exported types, types, variables
// and constants. A group may share the comment above it, or each have its own; fields explain
// themselves where they need to. Methods that a well-known interface prescribes need no words, and generated
// code is explained by what it was generated from.
func TestExportedAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" || ast.IsGenerated(s.file) {
			continue
		}
		for _, d := range s.file.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%v: exported %s has no doc comment", fileSet.Position(name.Pos()), name.Name)
			}
		}
	}
}

// prescribed are methods whose meaning an interface of the standard library, or a type of package
// transport that is documented there, fixes.
var prescribed = []string{"Error", "String", "Is", "Unwrap", "Len", "Less", "Swap", "Push", "Pop"}

func undocumented(d ast.Decl) []*ast.Ident {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() || d.Doc != nil || d.Recv != nil && (!exportedReceiver(d) || slices.Contains(prescribed, d.Name.Name)) {
			return nil
		}
		return []*ast.Ident{d.Name}
	case *ast.GenDecl:
		if d.Doc != nil {
			return nil
		}
		return undocumentedSpecs(d)
	}
	return nil
}

// undocumentedSpecs looks into a group without a comment. A list of constants of one documented type
// (the first names it, the others follow) is documented by the type.
func undocumentedSpecs(d *ast.GenDecl) []*ast.Ident {
	var missing []*ast.Ident
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && spec.Comment == nil {
				missing = append(missing, spec.Name)
			}
		case *ast.ValueSpec:
			if spec.Doc != nil || spec.Comment != nil || d.Tok == token.CONST && d.Lparen.IsValid() {
				continue
			}
			for _, name := range spec.Names {
				if name.IsExported() {
					missing = append(missing, name)
				}
			}
		}
	}
	return missing
}

func exportedReceiver(d *ast.FuncDecl) bool {
	exported := false
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && !exported {
			exported = id.IsExported()
			return false
		}
		return true
	})
	return exported
}
