// Package deploy_test holds what is in this folder to the program: policies to
// the requests that the code makes, configurations and secrets to what the
// command line reads.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
)

// actions are those of S3 that an operation of bucket.API needs, on objects and on
// the bucket.
type actions struct{ object, bucket []string }

// needs is by S3's own documentation. The lock's headers come with an object only
// for a caller that may ask for them; without s3:ListBucket what is not there is
// answered with 403. MinIO asks for s3:DeleteObject where S3 asks for
// s3:DeleteObjectVersion.
var needs = map[string]actions{
	"PutObject":                  {object: []string{"s3:PutObject", "s3:PutObjectRetention"}},
	"GetObject":                  {[]string{"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"}, []string{"s3:ListBucket"}},
	"HeadObject":                 {[]string{"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"}, []string{"s3:ListBucket"}},
	"DeleteObject":               {object: []string{"s3:DeleteObjectVersion", "s3:DeleteObject"}},
	"ListObjectVersions":         {bucket: []string{"s3:ListBucketVersions"}},
	"GetObjectRetention":         {object: []string{"s3:GetObjectRetention"}},
	"PutObjectRetention":         {object: []string{"s3:PutObjectRetention"}},
	"GetObjectLegalHold":         {object: []string{"s3:GetObjectLegalHold"}},
	"PutObjectLegalHold":         {object: []string{"s3:PutObjectLegalHold"}},
	"GetBucketVersioning":        {bucket: []string{"s3:GetBucketVersioning"}},
	"GetObjectLockConfiguration": {bucket: []string{"s3:GetBucketObjectLockConfiguration"}},
	"Answer":                     {},
}

const (
	bypass  = "s3:BypassGovernanceRetention"
	archive = "arn:aws:s3:::lotkeeper-archive"
)

// parseDir parses the files of a package that are not tests.
func parseDir(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatal(dir, err)
	}
	var out []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// vaultCode is the operations that each method of package bucket reaches, itself
// and through other methods.
func vaultCode(t *testing.T) map[string][]string {
	t.Helper()
	called := map[string][]string{}
	declared := []string{}
	for _, f := range parseDir(t, "archive/internal/bucket") {
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == "API" {
				for _, m := range spec.Type.(*ast.InterfaceType).Methods.List {
					declared = append(declared, m.Names[0].Name)
				}
			}
			fn, ok := n.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				return true
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					name := sel.Sel.Name
					if on, ok := sel.X.(*ast.SelectorExpr); ok && on.Sel.Name == "api" {
						name = "api." + name
					}
					called[fn.Name.Name] = append(called[fn.Name.Name], name)
				}
				return true
			})
			return true
		})
	}
	if known := slices.Sorted(maps.Keys(needs)); !slices.Equal(known, slices.Sorted(slices.Values(declared))) {
		t.Fatalf("this test knows the operations %v, bucket.API has %v", known, declared)
	}
	reaches := map[string][]string{}
	for method := range called {
		seen, todo := map[string]bool{}, []string{method}
		for len(todo) > 0 {
			name := todo[0]
			todo = todo[1:]
			if seen[name] {
				continue
			}
			seen[name] = true
			if op, ok := strings.CutPrefix(name, "api."); ok {
				reaches[method] = append(reaches[method], op)
			}
			todo = append(todo, called[name]...)
		}
	}
	return reaches
}

// usedMethods are the methods of archive.Vault that the engine calls.
func usedMethods(t *testing.T) []string {
	t.Helper()
	all := []string{"Status", "Put", "Get", "Stat", "Versions", "Retain", "SetLegalHold", "Delete"}
	used := map[string]bool{}
	for _, dir := range []string{"lifecycle", "archive", "cmd/lotkeeper"} {
		for _, f := range parseDir(t, dir) {
			ast.Inspect(f, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(all, sel.Sel.Name) {
						used[sel.Sel.Name] = true
					}
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(used))
}

func actionsOf(operations []string) (object, bucket []string) {
	for _, op := range operations {
		object = append(object, needs[op].object...)
		bucket = append(bucket, needs[op].bucket...)
	}
	slices.Sort(object)
	slices.Sort(bucket)
	return slices.Compact(object), slices.Compact(bucket)
}

type statement struct {
	Sid, Effect           string
	Principal             any
	Action                []string
	Resource, NotResource any
	Condition             map[string]map[string]string
}

func policy(t *testing.T, name string) []statement {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("s3-policies", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Version   string
		Statement []statement
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Version != "2012-10-17" {
		t.Fatalf("%s: %v, version %s", name, err, p.Version)
	}
	return p.Statement
}

func actionsIn(t *testing.T, name, sid string) []string {
	t.Helper()
	for _, s := range policy(t, name) {
		if s.Sid == sid {
			return slices.Sorted(slices.Values(s.Action))
		}
	}
	t.Fatalf("%s has no statement %s", name, sid)
	return nil
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s names %v, the code needs %v", what, got, want)
	}
}

// The policies name exactly what the code asks for.
func TestPoliciesNameWhatIsCalled(t *testing.T) {
	code := vaultCode(t)
	var sweep []string
	for _, method := range usedMethods(t) {
		if method == "Delete" {
			continue // the disposer's
		}
		if len(code[method]) == 0 {
			t.Errorf("%s is called and reaches no operation", method)
		}
		sweep = append(sweep, code[method]...)
	}
	object, bucket := actionsOf(sweep)
	same(t, "writer's Bucket", actionsIn(t, "writer", "Bucket"), bucket)
	same(t, "writer's Segments", actionsIn(t, "writer", "Segments"), object)

	object, bucket = actionsOf(code["Inspect"])
	same(t, "inspector's Probes", actionsIn(t, "inspector", "Probes"), object)
	if has := actionsIn(t, "writer", "Bucket"); slices.ContainsFunc(bucket, func(a string) bool { return !slices.Contains(has, a) }) {
		t.Errorf("Inspect needs %v of the bucket, the writer has %v", bucket, has)
	}

	object, _ = actionsOf(append(slices.Clone(code["SetLegalHold"]), "GetObjectRetention", "GetObjectLegalHold"))
	object = slices.Sorted(slices.Values(append(object, "s3:GetObjectVersion")))
	same(t, "holder's PlaceHolds", actionsIn(t, "holder", "PlaceHolds"), object)
	same(t, "releaser's ReleaseHolds", actionsIn(t, "releaser", "ReleaseHolds"), object)

	// The log is put under a lock and read, by its versions.
	object, _ = actionsOf(slices.Concat(code["Put"], code["Get"], []string{"GetObjectRetention"}))
	object = slices.DeleteFunc(object, func(a string) bool { return a == "s3:GetObjectLegalHold" })
	for _, name := range []string{"writer", "holder", "releaser"} {
		same(t, name+"'s Log", actionsIn(t, name, "Log"), object)
	}

	// Delete looks at versions by their ids alone.
	object, _ = actionsOf(code["Delete"])
	object = slices.DeleteFunc(object, func(a string) bool { return a == "s3:GetObject" })
	same(t, "disposer's RemoveUnlocked", actionsIn(t, "disposer", "RemoveUnlocked"), object)
}

// Nobody is allowed what the deny lists are about, and both lists deny it.
func TestDenyLists(t *testing.T) {
	admin := []string{"s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketPolicy", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration"}
	for _, name := range []string{"writer", "inspector", "holder", "releaser", "disposer"} {
		for _, s := range policy(t, name) {
			for _, a := range s.Action {
				if s.Effect != "Allow" || a == bypass || slices.Contains(admin, a) || strings.Contains(a, "*") {
					t.Errorf("%s: %s %s", name, s.Effect, a)
				}
			}
		}
	}
	for name, sids := range map[string][2]string{"bucket-policy": {"NobodyBypassesGovernance", "OnlyTheAdminChangesTheBucket"}, "deny-user": {"NoBypassOfGovernance", "NoChangeOfTheBucket"}} {
		same(t, name, actionsIn(t, name, sids[0]), []string{bypass})
		same(t, name, actionsIn(t, name, sids[1]), admin)
		probes := 0
		for _, s := range policy(t, name) {
			if s.Effect != "Deny" || (s.Principal != nil) != (name == "bucket-policy") {
				t.Errorf("%s, %s: effect %s, principal %v", name, s.Sid, s.Effect, s.Principal)
			}
			// In a user's policy NotResource would be about every other bucket too.
			want := statement{NotResource: []any{archive + "/inspect-*"}}
			if name == "deny-user" {
				want = statement{Resource: []any{archive + "/segments/*", archive + "/manifests/*", archive + "/log/*"}}
			}
			if reflect.DeepEqual(s.NotResource, want.NotResource) && reflect.DeepEqual(s.Resource, want.Resource) {
				probes++
			}
		}
		// What init and doctor put is locked for seconds, one of it in GOVERNANCE.
		if probes != 2 {
			t.Errorf("%s: %d statements leave out inspect-*, want 2", name, probes)
		}
	}
}

func documents(t *testing.T, path string) []map[string]any {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []map[string]any
	for d := yaml.NewDecoder(f); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", path, yaml.FormatError(err, false, true))
		}
		out = append(out, doc)
	}
}

// at follows a path through maps and lists; a number is an index.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				t.Fatalf("%v: there is no %d", path, p)
			}
			v = l[p]
		}
		if v == nil {
			t.Fatalf("%v: there is no %v", path, p)
		}
	}
	return v
}

func TestEveryFileParses(t *testing.T) {
	n := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch filepath.Ext(path) {
		case ".json":
			policy(t, strings.TrimSuffix(filepath.Base(path), ".json"))
		case ".yaml":
			if len(documents(t, path)) == 0 {
				t.Errorf("%s is empty", path)
			}
		default:
			return err
		}
		n++
		return err
	})
	if err != nil || n < 10 {
		t.Errorf("%d files, %v", n, err)
	}
}

// build is the program, built once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lotkeeper-deploy-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "lotkeeper")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../cmd/lotkeeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return binary, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

type setting struct{ Key, Value, Source string }

// show is config show of a configuration, in an environment that has nothing else.
func show(t *testing.T, config string, env ...string) map[string]setting {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config", config, "-o", "json", "config", "show")
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", config, err, stderr.String())
	}
	var all []setting
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	by := map[string]setting{}
	for _, s := range all {
		by[s.Key] = s
	}
	return by
}

// secrets are the values of a configuration that come from elsewhere.
func secrets(all map[string]setting) map[string]string {
	found := map[string]string{}
	for k, s := range all {
		if s.Value == "set, and not shown" || s.Value == "not set" {
			found[strings.TrimSuffix(k, " of onprem")] = s.Source
		}
	}
	return found
}

// secretFiles writes secrets as their names and returns the directory.
func secretFiles(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var wanted = []string{"minio_access_key", "minio_secret_key", "pgpassword"}

// pointed is an environment whose NAME_FILE variables point into a directory that
// has files of the names that they point at.
func pointed(t *testing.T, vars map[string]string) []string {
	t.Helper()
	var names, env []string
	for _, path := range vars {
		names = append(names, filepath.Base(path))
	}
	dir := secretFiles(t, names...)
	for name, path := range vars {
		env = append(env, name+"="+filepath.Join(dir, filepath.Base(path)))
	}
	return env
}

func checkPointed(t *testing.T, config string, vars map[string]string) {
	t.Helper()
	found := secrets(show(t, config, pointed(t, vars)...))
	if names := slices.Sorted(maps.Keys(found)); !slices.Equal(names, wanted) {
		t.Fatalf("the configuration needs %v", names)
	}
	for name, source := range found {
		if want := strings.ToUpper(name) + "_FILE"; source != want {
			t.Errorf("%s comes from %s, want %s", name, source, want)
		}
	}
}

func TestCompose(t *testing.T) {
	doc := documents(t, "compose.yaml")[0]
	vars, mounted := map[string]string{}, map[string]bool{}
	for k, v := range at(t, doc, "services", "sweep", "environment").(map[string]any) {
		vars[k] = v.(string)
	}
	for _, s := range at(t, doc, "services", "sweep", "secrets").([]any) {
		mounted["/run/secrets/"+s.(string)] = true
		at(t, doc, "secrets", s)
	}
	for k, path := range vars {
		if !mounted[path] {
			t.Errorf("%s is %s, which is not among its secrets", k, path)
		}
	}
	checkPointed(t, "lotkeeper.yaml", vars)
	for _, job := range []string{"init", "sweep", "lotkeeper"} {
		if !slices.Contains(at(t, doc, "services", job, "volumes").([]any), any("./lotkeeper.yaml:/etc/lotkeeper/lotkeeper.yaml:ro")) {
			t.Errorf("%s does not mount the configuration", job)
		}
	}
	// No secret stands in the file: they are all files in a directory that is not
	// in the repository.
	for name, s := range at(t, doc, "secrets").(map[string]any) {
		if file, ok := at(t, s, "file").(string); !ok || file != "./secrets/"+name {
			t.Errorf("secret %s comes from %s", name, file)
		}
	}
}

func TestCronJob(t *testing.T) {
	var job, config map[string]any
	for _, d := range documents(t, "kubernetes/cronjob.yaml") {
		switch d["kind"] {
		case "CronJob":
			job = d
		case "ConfigMap":
			config = d
		}
	}
	file := filepath.Join(t.TempDir(), "lotkeeper.yaml")
	if err := os.WriteFile(file, []byte(at(t, config, "data", "lotkeeper.yaml").(string)), 0o600); err != nil {
		t.Fatal(err)
	}
	if at(t, job, "spec", "concurrencyPolicy") != "Forbid" {
		t.Error("sweeps may overlap")
	}
	pod := at(t, job, "spec", "jobTemplate", "spec", "template", "spec")
	if at(t, pod, "securityContext", "fsGroupChangePolicy") != "OnRootMismatch" {
		t.Error("each mount would make the keys readable for the group")
	}
	vars := map[string]string{}
	copies := at(t, pod, "initContainers", 0, "command", 2).(string)
	for _, e := range at(t, pod, "containers", 0, "env").([]any) {
		if name := at(t, e, "name").(string); strings.HasSuffix(name, "_FILE") {
			vars[name] = at(t, e, "value").(string)
			if !strings.Contains(copies, "/secret/"+filepath.Base(vars[name])) {
				t.Errorf("%s is not copied", vars[name])
			}
		}
	}
	checkPointed(t, file, vars)
	for _, c := range []string{"initContainers", "containers"} {
		if at(t, pod, c, 0, "securityContext", "readOnlyRootFilesystem") != true {
			t.Errorf("%s can write to its root", c)
		}
	}
	for _, v := range at(t, pod, "volumes").([]any) {
		if s, ok := v.(map[string]any)["secret"]; ok && at(t, s, "defaultMode") != uint64(0o400) {
			t.Errorf("defaultMode is %v", at(t, s, "defaultMode"))
		}
	}
}

// The examples of the manual are read by the program.
func TestExamplesOfTheManual(t *testing.T) {
	b, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(b, -1)
	if len(examples) != 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for i, e := range examples {
		file := filepath.Join(t.TempDir(), "lotkeeper.yaml")
		if err := os.WriteFile(file, e[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if found := secrets(show(t, file)); (len(found) == 3) != (i == 0) {
			t.Errorf("example %d needs %v", i+1, found)
		}
	}
}

var loadCredential = regexp.MustCompile(`(?m)^LoadCredential=([a-z_]+):`)

func TestUnitNamesCredentials(t *testing.T) {
	unit, err := os.ReadFile("systemd/lotkeeper-sweep.service")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range loadCredential.FindAllSubmatch(unit, -1) {
		names = append(names, string(m[1]))
	}
	if slices.Sort(names); !slices.Equal(names, wanted) {
		t.Fatalf("the unit loads %v", names)
	}
	for name, source := range secrets(show(t, "lotkeeper.yaml", "CREDENTIALS_DIRECTORY="+secretFiles(t, names...))) {
		if source != "systemd credential "+name {
			t.Errorf("%s comes from %s", name, source)
		}
	}
}

func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: the units are not verified")
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"lotkeeper-sweep.service", "lotkeeper-sweep.timer"} {
		b, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// It looks whether the program is there.
		b = bytes.ReplaceAll(b, []byte("/usr/local/bin/lotkeeper"), []byte(binary))
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
