package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

type file struct {
	name string
	body []byte
	link string
}

func pack(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h = &tar.Header{Name: f.name, Typeflag: tar.TypeSymlink, Linkname: f.link}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func must(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// saved is an archive as older engines write it: layers in folders, one of them a link to another.
func saved(t *testing.T, tags []string, layer string) (files []file, id string) {
	body := []byte(layer)
	config := must(t, map[string]any{"rootfs": map[string]any{"diff_ids": []string{"sha256:" + sum(body), "sha256:" + sum(body)}}})
	id = sum(config)
	return []file{
		{name: id + ".json", body: config}, {name: "aaa/layer.tar", body: body}, {name: "bbb/layer.tar", link: "../aaa/layer.tar"},
		{name: "manifest.json", body: must(t, []map[string]any{{"Config": id + ".json", "RepoTags": tags, "Layers": []string{"aaa/layer.tar", "bbb/layer.tar"}}})},
	}, "sha256:" + id
}

// layout is an archive as newer engines write it, with an OCI layout inside and a compressed layer.
func layout(t *testing.T, tag string) (files []file, id string) {
	body := []byte("compressed bytes")
	config := must(t, map[string]any{"rootfs": map[string]any{"diff_ids": []string{"sha256:" + sum([]byte("plain bytes"))}}})
	return []file{
		{name: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "blobs/sha256/" + sum(config), body: config}, {name: "blobs/sha256/" + sum(body), body: body},
		{name: "manifest.json", body: must(t, []map[string]any{{"Config": "blobs/sha256/" + sum(config), "RepoTags": []string{tag}, "Layers": []string{"blobs/sha256/" + sum(body)}}})},
	}, "sha256:" + sum(config)
}

type rig struct {
	t     *testing.T
	store store.Store
	dir   string
	free  uint64
	clock *clock.Fake
	*Library
	specs   map[string]*v1.HostSpec
	busy    bool
	service *Service
}

func (r *rig) HostSpecs(context.Context) (map[string]*v1.HostSpec, error) { return r.specs, nil }
func (r *rig) Changed()                                                   {}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "images"), free: 1 << 40, clock: clock.NewFake(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))}
	s, err := sqlite.Open(context.Background(), sqlite.Config{Dir: t.TempDir(), Clock: r.clock, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.store = s
	r.reopen()
	return r
}

func (r *rig) reopen() {
	r.t.Helper()
	l, err := Open(context.Background(), Config{Records: r.store, Dir: r.dir, Clock: r.clock, Log: hclog.NewNullLogger(),
		Free: func(string) (uint64, error) { return r.free, nil }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Library = l
	r.service = NewService(l, r, func(context.Context) (bool, error) { return r.busy, nil })
}

func (r *rig) push(content []byte, start *v1.PushImageStart) (record, bool, error) {
	in := bytes.NewReader(content)
	return r.put(context.Background(), "operator/anna", start, func() ([]byte, error) {
		b := make([]byte, 700)
		n, err := in.Read(b)
		return b[:n], err
	})
}

func (r *rig) mustPush(content []byte) record {
	r.t.Helper()
	rec, _, err := r.push(content, &v1.PushImageStart{})
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

// left returns the files of the folder.
func (r *rig) left() (names []string) {
	_ = filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return nil
	})
	return names
}

func TestPushKeepsWhatDockerSaves(t *testing.T) {
	r := newRig(t)
	files, id := saved(t, []string{"docker.io/library/mariadb:10.11.10", "lab/db:1"}, "layer")
	old := pack(t, files)
	files, ociID := layout(t, "grafana/grafana:11.2.2")
	oci := pack(t, files)
	rec, existed, err := r.push(old, &v1.PushImageStart{Digest: "sha256:" + sum(old), Size: uint64(len(old))})
	want := record{Digest: "sha256:" + sum(old), Names: []string{"mariadb:10.11.10", "lab/db:1"}, ImageID: id, Size: int64(len(old)),
		Pushed: r.clock.Now(), Operator: "operator/anna"}
	if diff := cmp.Diff(want, rec); diff != "" || existed || err != nil {
		t.Errorf("%v, %v\n%s", existed, err, diff)
	}
	if rec := r.mustPush(oci); rec.ImageID != ociID {
		t.Errorf("image id %s, want %s", rec.ImageID, ociID)
	}
	r.reopen()
	if _, existed, err := r.push(old, &v1.PushImageStart{}); !existed || err != nil {
		t.Errorf("pushed again: existed %v, %v", existed, err)
	}
	var res site.Resources
	if err := r.Resources(context.Background(), &res); err != nil || len(res.Images) != 3 || res.Images["mariadb:10.11.10"].ImageID != id {
		t.Errorf("resources %v, %v", res.Images, err)
	}
}

func TestTheNewestArchiveOfANameCounts(t *testing.T) {
	r := newRig(t)
	push := func(layer string) string {
		r.clock.Advance(time.Minute)
		files, _ := saved(t, []string{"lab/db:1"}, layer)
		return r.mustPush(pack(t, files)).Digest
	}
	newest := func() string {
		var res site.Resources
		_ = r.Resources(context.Background(), &res)
		return res.Images["lab/db:1"].Digest
	}
	first, second := push("one"), push("two")
	if newest() != second {
		t.Errorf("the older archive counts")
	}
	if push("one") != first || newest() != first {
		t.Errorf("an archive that is pushed again is not the newest")
	}
}

func TestPushRefusesAndLeavesNothing(t *testing.T) {
	good, _ := saved(t, []string{"lab/db:1"}, strings.Repeat("layer", 1000))
	content := pack(t, good)
	change := func(i int, f file) []byte {
		files := append([]file{}, good...)
		files[i] = f
		return pack(t, files)
	}
	twoImages := bytes.ReplaceAll(good[3].body, []byte("[{"), []byte("[{},{"))
	for name, tt := range map[string]struct {
		content []byte
		start   *v1.PushImageStart
		want    errs.Code
		text    string
	}{
		"ErrNoStart":        {content, nil, errs.Invalid, "first message"},
		"ErrOtherDigest":    {content, &v1.PushImageStart{Digest: "sha256:" + strings.Repeat("0", 64)}, errs.Invalid, "damaged on the way"},
		"ErrNoDigest":       {content, &v1.PushImageStart{Digest: "../../etc/passwd"}, errs.Invalid, "no digest"},
		"ErrOtherSize":      {content, &v1.PushImageStart{Size: 1}, errs.Invalid, "were announced"},
		"ErrTooLarge":       {content, &v1.PushImageStart{Size: MaxArchive + 1}, errs.Invalid, "larger than"},
		"ErrNoRoom":         {content, &v1.PushImageStart{Size: 1 << 33}, errs.Exhausted, "no room"},
		"ErrEmpty":          {nil, &v1.PushImageStart{}, errs.Invalid, "empty"},
		"ErrNoTar":          {bytes.Repeat([]byte("x"), 5000), &v1.PushImageStart{}, errs.Invalid, "no tar"},
		"ErrCompressed":     {append([]byte{0x1f, 0x8b}, content...), &v1.PushImageStart{}, errs.Invalid, "compressed"},
		"ErrCutShort":       {content[:2000], &v1.PushImageStart{}, errs.Invalid, "damaged"},
		"ErrNoManifest":     {pack(t, good[:3]), &v1.PushImageStart{}, errs.Invalid, "no manifest.json"},
		"ErrBadManifest":    {change(3, file{name: "manifest.json", body: []byte("{")}), &v1.PushImageStart{}, errs.Invalid, "cannot be read"},
		"ErrTwoImages":      {change(3, file{name: "manifest.json", body: twoImages}), &v1.PushImageStart{}, errs.Invalid, "2 images"},
		"ErrOtherLayer":     {change(1, file{name: "aaa/layer.tar", body: []byte("evil")}), &v1.PushImageStart{}, errs.Invalid, "not whole"},
		"ErrNoLayer":        {change(1, file{name: "ccc/layer.tar", body: []byte("x")}), &v1.PushImageStart{}, errs.Invalid, "missing"},
		"ErrOtherConfig":    {change(0, file{name: good[0].name, body: []byte("{}")}), &v1.PushImageStart{}, errs.Invalid, "configuration"},
		"ErrNoName":         {change(3, file{name: "manifest.json", body: bytes.Replace(good[3].body, []byte(`["lab/db:1"]`), []byte("null"), 1)}), &v1.PushImageStart{}, errs.Invalid, "0 names"},
		"ErrNameWithoutTag": {change(3, file{name: "manifest.json", body: bytes.Replace(good[3].body, []byte("lab/db:1"), []byte("lab/db"), 1)}), &v1.PushImageStart{}, errs.Invalid, "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.free = 4 << 30
			_, _, err := r.push(tt.content, tt.start)
			if !errs.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %s with %q", err, tt.want, tt.text)
			}
			if left := r.left(); len(left) > 0 || len(r.snapshot()) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestAPushThatIsCutOffLeavesNothing(t *testing.T) {
	r := newRig(t)
	_, _, err := r.put(context.Background(), "x", &v1.PushImageStart{}, func() ([]byte, error) { return nil, errors.New("connection lost") })
	if err == nil || len(r.left()) > 0 {
		t.Errorf("%v, left %v", err, r.left())
	}
	for _, name := range []string{"incoming/push-1", "sha256/" + strings.Repeat("a", 64)} { // of a server that was killed
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.reopen()
	if left := r.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func uses(name, reference string, archive string) *v1.HostSpec {
	return &v1.HostSpec{Containers: &v1.ContainersSpec{Stacks: []*v1.StackSpec{{Name: name,
		Images: []*v1.StackImage{{Reference: reference, Use: reference, ArchiveDigest: archive}}}}}}
}

func TestFetchIsForNodesWhoseStacksUseTheImage(t *testing.T) {
	r := newRig(t)
	files, _ := saved(t, []string{"lab/db:1"}, strings.Repeat("x", 600<<10))
	content := pack(t, files)
	digest := r.mustPush(content).Digest
	r.specs = map[string]*v1.HostSpec{"a": uses("s", "lab/db:1", digest), "b": uses("s", "lab/other:1", ""), "c": uses("s", "lab/db:1", "sha256:newer")}
	fetch := func(node, digest string, offset uint64) ([]byte, uint64, error) {
		var out []byte
		var size uint64
		err := r.service.Fetch(context.Background(), node, &v1.FetchImageRequest{Digest: digest, Offset: offset}, func(m *v1.FetchImageResponse) error {
			out, size = append(out, m.GetData()...), max(size, m.GetSize())
			return nil
		})
		return out, size, err
	}
	for _, node := range []string{"a", "c"} {
		for _, offset := range []uint64{0, 300_000, uint64(len(content))} {
			got, size, err := fetch(node, digest, offset)
			if err != nil || size != uint64(len(content)) || !bytes.Equal(got, content[offset:]) {
				t.Errorf("%s from %d: %d bytes of %d, %v", node, offset, len(got), size, err)
			}
		}
	}
	for _, node := range []string{"b", "nobody"} {
		if _, _, err := fetch(node, digest, 0); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v, want denied", node, err)
		}
	}
	if _, _, err := fetch("a", digest, uint64(len(content))+1); !errs.Is(err, errs.Invalid) {
		t.Errorf("behind the end: %v", err)
	}
	if _, _, err := fetch("a", "sha256:../../x", 0); !errs.Is(err, errs.Invalid) {
		t.Errorf("no digest: %v", err)
	}
	stop := errors.New("the agent is gone")
	if err := r.service.Fetch(context.Background(), "a", &v1.FetchImageRequest{Digest: digest}, func(*v1.FetchImageResponse) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestPruneKeepsWhatIsUsedOrYoung(t *testing.T) {
	r := newRig(t)
	push := func(name string) string {
		files, _ := saved(t, []string{name}, name)
		return r.mustPush(pack(t, files)).Digest
	}
	used, unused := push("lab/used:1"), push("lab/unused:1")
	r.clock.Advance(2 * time.Hour)
	young := push("lab/young:1")
	r.specs = map[string]*v1.HostSpec{"a": uses("s", "lab/used:1", used)}
	list, err := r.service.ListImages(context.Background(), nil)
	if err != nil || len(list.GetImages()) != 3 || list.GetImages()[0].GetDigest() != young {
		t.Fatalf("list %v, %v", list, err)
	}
	prune := func(dry bool) ([]string, error) {
		resp, err := r.service.PruneImages(context.Background(), &v1.PruneImagesRequest{DryRun: dry})
		var out []string
		for _, i := range resp.GetImages() {
			out = append(out, i.GetDigest())
		}
		return out, err
	}
	r.busy = true
	if _, err := prune(false); !errs.Is(err, errs.Precondition) {
		t.Errorf("during a rollout: %v", err)
	}
	r.busy = false
	for _, dry := range []bool{true, false} {
		if got, err := prune(dry); err != nil || !cmp.Equal(got, []string{unused}) {
			t.Errorf("dry %v: %v, %v, want %s", dry, got, err, unused)
		}
	}
	if len(r.left()) != 2 || len(r.snapshot()) != 2 {
		t.Errorf("left %v", r.left())
	}
}

func FuzzInspect(f *testing.F) {
	t := &testing.T{}
	old, _ := saved(t, []string{"lab/db:1"}, "layer")
	oci, _ := layout(t, "a/b:1")
	f.Add(pack(t, old))
	f.Add(pack(t, oci))
	f.Fuzz(func(t *testing.T, content []byte) {
		a, err := inspect(bytes.NewReader(content))
		if err == nil && (len(a.names) == 0 || !digestForm.MatchString(a.id)) {
			t.Errorf("accepted as %+v", a)
		}
		if err != nil && !errs.Is(err, errs.Invalid) {
			t.Errorf("error %v", err)
		}
	})
}
