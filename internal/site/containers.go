package site

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/infractl/infractl/internal/compose"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// containers derives the container stacks of a node: all of them, so that one that is no longer named is taken down.
func (s *Site) containers(n *Node, res Resources) *v1.ContainersSpec {
	if !n.DockerHost() {
		return nil
	}
	spec := &v1.ContainersSpec{}
	for i := range s.Stacks {
		if st := &s.Stacks[i]; st.Node == n.Name {
			spec.Stacks = append(spec.Stacks, s.stackSpec(st, res))
		}
	}
	slices.SortFunc(spec.Stacks, func(a, b *v1.StackSpec) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return spec
}

func (s *Site) stackSpec(st *Stack, res Resources) *v1.StackSpec {
	spec := &v1.StackSpec{Name: st.Name, ComposeFile: st.File, Compose: st.Compose, Variables: maps.Clone(st.Variables)}
	dir := path.Dir(st.File)
	for _, f := range st.Files {
		spec.Files = append(spec.Files, &v1.StackFile{Path: relativeTo(dir, f.Path), Content: f.Content, Executable: f.Executable})
	}
	for _, ref := range st.Needs.Images {
		spec.Images = append(spec.Images, s.stackImage(ref, res))
	}
	for _, name := range st.Needs.Secrets {
		spec.Secrets = append(spec.Secrets, &v1.SecretRef{Name: name, Version: res.Secrets[name]})
	}
	return spec
}

// stackImage says what runs for a reference: its stand-in where an overlay has one, from the server's archive where it has one.
func (s *Site) stackImage(ref string, res Resources) *v1.StackImage {
	image := &v1.StackImage{Reference: ref, Use: ref}
	for _, m := range s.Images {
		if sameImage(m.Image, ref) {
			image.Use = m.StandIn
		}
	}
	archive, ok := res.Images[image.Use]
	if name, is := compose.Familiar(image.Use); !ok && is {
		archive = res.Images[name]
	}
	image.ArchiveDigest, image.ImageId = archive.Digest, archive.ImageID
	return image
}

func sameImage(a, b string) bool {
	fa, oka := compose.Familiar(a)
	fb, okb := compose.Familiar(b)
	return a == b || oka && okb && fa == fb
}

// MissingSecrets returns an error finding for each secret that the site names and nobody has set: nothing that needs it could
// start.
func (s *Site) MissingSecrets(res Resources) []*v1.Finding {
	var out []*v1.Finding
	for i := range s.Stacks {
		st := &s.Stacks[i]
		for _, name := range st.Needs.Secrets {
			if res.Secrets[name] == "" {
				out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: st.where,
					Message: fmt.Sprintf("stack %s needs the secret %s, and nobody has set it", st.Name, name), Hint: "infractl secret set " + name})
			}
		}
	}
	if name := s.proxyPart.password; name != "" && res.Secrets[name] == "" {
		out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR,
			Message: fmt.Sprintf("the reverse proxy needs the secret %s, and nobody has set it", name), Hint: "infractl secret set " + name})
	}
	for name, use := range s.dnsSecrets() {
		if res.Secrets[name] == "" {
			out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR,
				Message: fmt.Sprintf("%s needs the secret %s, and nobody has set it", use, name), Hint: "infractl secret rotate " + name})
		}
	}
	return out
}

// ImageUse is an image that a spec names, and what needs it.
type ImageUse struct {
	// By is a stack's name, "instances" or "front".
	By string
	// Image is the image.
	Image *v1.StackImage
}

// ImagesOf returns the images that a node's spec names: those of its stacks and of its instances.
func ImagesOf(spec *v1.HostSpec) []ImageUse {
	var out []ImageUse
	for _, st := range spec.GetContainers().GetStacks() {
		for _, image := range st.GetImages() {
			out = append(out, ImageUse{st.GetName(), image})
		}
	}
	for _, inst := range spec.GetDolibarr().GetInstances() {
		if inst.GetAdopted() != nil {
			continue
		}
		out = append(out, ImageUse{"instances", inst.GetAppImage()}, ImageUse{"instances", inst.GetDbImage()})
	}
	if front := spec.GetDolibarr().GetFront(); front != nil {
		out = append(out, ImageUse{"front", front.GetImage()})
	}
	return out
}

// ArchivesOf returns the digests of the archives that a node's spec names.
func ArchivesOf(spec *v1.HostSpec) []string {
	var out []string
	for _, use := range ImagesOf(spec) {
		if d := use.Image.GetArchiveDigest(); d != "" && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}
