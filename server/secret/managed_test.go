package secret_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/store"
)

const owned = "instance/abcd1234/db"

func TestManagedSecretsAreMadeOnceRenewedAndForgotten(t *testing.T) {
	r := newRig(t)
	ctx := r.Context()
	first, err := r.vault.Make(ctx, owned, "operator/anna")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.vault.Make(ctx, owned, "operator/anna"); err != nil || again != first {
		t.Errorf("made again: %s, %v; want %s", again, err, first)
	}
	value, err := r.vault.Own(ctx, owned)
	if err != nil || !regexp.MustCompile(`^[A-Za-z0-9]{24}$`).Match(value.Reveal()) {
		t.Errorf("value of %d bytes, %v", value.Len(), err)
	}
	second, err := r.vault.Renew(ctx, owned, "operator/anna")
	if err != nil || second == first {
		t.Errorf("renewed: %s, %v", second, err)
	}
	if now, err := r.vault.Current(ctx, owned); err != nil || now != second {
		t.Errorf("current: %s, %v; want %s", now, err, second)
	}
	for range 2 { // again after a crash
		if err := r.vault.Forget(ctx, owned, "instance/abcd1234/none"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.vault.Own(ctx, owned); !errs.Is(err, errs.Precondition) {
		t.Errorf("after it was forgotten: %v", err)
	}
	if third, err := r.vault.Make(ctx, owned, "operator/anna"); err != nil || third == first || third == second {
		t.Errorf("made anew: %s, %v", third, err)
	}
}

func TestManagedSecretsAreNoBusinessOfPeople(t *testing.T) {
	r := newRig(t)
	ctx := r.Context()
	version, err := r.vault.Make(ctx, owned, "operator/anna")
	if err != nil {
		t.Fatal(err)
	}
	r.specs = map[string]secret.Spec{"srv-prod": {Spec: &v1.HostSpec{Dolibarr: &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{
		{Name: "acme", Secrets: []*v1.SecretRef{{Name: owned, Version: version}}}}}}}}
	list, err := r.service.ListSecrets(ctx, &v1.ListSecretsRequest{})
	if err != nil || len(list.GetSecrets()) != 0 {
		t.Errorf("listed: %v, %v", list.GetSecrets(), err)
	}
	if _, err := r.service.SetSecret(ctx, &v1.SetSecretRequest{Name: owned, Value: []byte("x")}); !errs.Is(err, errs.Invalid) {
		t.Errorf("set: %v", err)
	}
	if _, err := r.service.RemoveSecret(ctx, &v1.RemoveSecretRequest{Name: owned}); !errs.Is(err, errs.Invalid) {
		t.Errorf("removed: %v", err)
	}
	var res site.Resources
	if err := r.vault.Resources(ctx, &res); err != nil || len(res.Secrets) != 0 {
		t.Errorf("resources %v, %v", res.Secrets, err)
	}
	got, err := r.vault.Fetch(ctx, "srv-prod", []*v1.SecretRef{{Name: owned, Version: version}})
	if err != nil || len(got) != 1 || len(got[0].GetValue()) != 24 {
		t.Errorf("the host fetches it: %v", err)
	}
	if _, err := r.vault.Fetch(ctx, "srv-pre-prod", []*v1.SecretRef{{Name: owned, Version: version}}); !errs.Is(err, errs.Denied) {
		t.Errorf("another host fetches it: %v", err)
	}
}

func TestManagedSecretsGoBackAndForgetTheFormer(t *testing.T) {
	r := newRig(t)
	ctx := r.Context()
	var versions, values []string
	for range 3 {
		if _, err := r.vault.Make(ctx, owned, "operator/anna"); err != nil {
			t.Fatal(err)
		}
		version, err := r.vault.Renew(ctx, owned, "operator/anna")
		if err != nil {
			t.Fatal(err)
		}
		value, err := r.vault.Own(ctx, owned)
		if err != nil {
			t.Fatal(err)
		}
		versions, values = append(versions, version), append(values, string(value.Reveal()))
	}
	for range 2 { // again after a crash
		if err := r.vault.Revert(ctx, owned, versions[0]); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := r.vault.Current(ctx, owned); err != nil || now != versions[0] {
		t.Errorf("current is %s, %v; want %s", now, err, versions[0])
	}
	if value, err := r.vault.Own(ctx, owned); err != nil || string(value.Reveal()) != values[0] {
		t.Errorf("its value is another: %v", err)
	}
	if err := r.vault.Revert(ctx, owned, versions[2]); !errs.Is(err, errs.Precondition) {
		t.Errorf("to a version that is forgotten: %v", err)
	}
	last, err := r.vault.Renew(ctx, owned, "operator/anna")
	if err != nil || slices.Contains(versions, last) {
		t.Errorf("renewed: %s, %v", last, err)
	}
	for range 2 {
		if err := r.vault.ForgetFormer(ctx, owned); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := r.store.List(ctx, secret.KindValue, store.ListOptions{})
	if err != nil || len(kept) != 1 || kept[0].Name != owned+"/"+last {
		t.Errorf("kept are %v, %v", kept, err)
	}
	if now, err := r.vault.Current(ctx, owned); err != nil || now != last {
		t.Errorf("current is %s, %v", now, err)
	}
}

func TestRotatingWhatBelongsToAnInstanceIsRefusedWithAWayOut(t *testing.T) {
	r := newRig(t)
	_, err := r.service.RotateSecret(r.Context(), &v1.RotateSecretRequest{Name: owned})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.HintOf(err), "infractl instance password NAME --database") {
		t.Errorf("%v, %s", err, errs.HintOf(err))
	}
}
