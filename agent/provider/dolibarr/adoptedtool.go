package dolibarr

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"path"
	"strings"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// doOnAdopted does something once with an adopted instance.
func (p *Provider) doOnAdopted(ctx context.Context, task *v1.InstanceTask, inst *v1.InstanceSpec) (*v1.InstanceResult, error) {
	if err := checkAdopted(inst); err != nil {
		return nil, err
	}
	t := &steps{}
	switch a := task.GetAction().(type) {
	case *v1.InstanceTask_Password:
		answer, err := p.adoptedVerb(ctx, t, inst, dolibarr.VerbPassword, dolibarr.PasswordInput{AdminLogin: inst.GetAdminLogin()})
		return &v1.InstanceResult{Version: answer.Version, Steps: t.list}, err
	case *v1.InstanceTask_Modules:
		answer, err := p.adoptedVerb(ctx, t, inst, dolibarr.VerbModules,
			dolibarr.ModulesInput{Enable: a.Modules.GetEnable(), Disable: a.Modules.GetDisable()})
		return &v1.InstanceResult{Version: answer.Version, Modules: answer.Modules, Steps: t.list}, err
	case *v1.InstanceTask_Purge:
		return p.purgeAdopted(ctx, inst)
	}
	return nil, errs.New(errs.Invalid, "this cannot be done with an adopted instance, whose containers infractl did not make")
}

// adoptedScript runs the tool in a container that has it not: it comes by stdin as an object of files, stands in memory for as long as it
// runs, and with it the secret that it needs. The arguments are the client's name and the verb. The original scripts keep the code in
// /var/www/CLIENT/htdocs; Dolibarr's own image has it in /var/www/html.
const adoptedScript = `umask 077
no() { printf '{"ok":false,"error":"%s","hint":"%s"}\n' "$1" "$2"; exit 1; }
command -v php >/dev/null || no 'its container has no php for the command line' 'do it in Dolibarr itself, or in its database'
for htdocs in "/var/www/$1/htdocs" /mnt/web/htdocs /var/www/html; do [ -e "$htdocs/conf/conf.php" ] && break; done
[ -r "$htdocs/conf/conf.php" ] || no 'no conf.php that www-data can read is where the original scripts put it' 'do it in Dolibarr itself'
for memory in /dev/shm /tmp; do [ -w "$memory" ] && break; done
dir=$(mktemp -d "$memory/infractl.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$dir/secrets" && php -r 'foreach (json_decode(stream_get_contents(STDIN), true) as $name => $text) {
  if (file_put_contents("$argv[1]/$name", $text) !== strlen($text) || !chmod("$argv[1]/$name", 0400)) exit(1);
}' -- "$dir" || exit 1
documents=/mnt/data; [ -d "$documents" ] || documents=/var/www/documents
INFRACTL_HTDOCS=$htdocs INFRACTL_DOCUMENTS=$documents INFRACTL_SECRETS=$dir/secrets php "$dir/tool.php" "$2" <"$dir/input.json"`

// adoptedVerb runs a verb of the tool in the application's container of an adopted instance.
func (p *Provider) adoptedVerb(ctx context.Context, t *steps, inst *v1.InstanceSpec, verb string, input any) (dolibarr.Answer, error) {
	app, err := p.engine.Inspect(ctx, inst.GetAdopted().GetAppContainer())
	if err != nil {
		return dolibarr.Answer{}, err
	}
	if app.State != "running" {
		return dolibarr.Answer{}, errs.New(errs.Precondition, "its container %s is %s", app.Name, app.State).
			WithHint("infractl instance resume %s", inst.GetName())
	}
	secrets := map[string][]byte{}
	if refs := inst.GetSecrets(); len(refs) > 0 {
		values, err := p.fetchSecrets(ctx, refs)
		if err != nil {
			return dolibarr.Answer{}, err
		}
		for i, v := range values {
			secrets[secretName(refs[i])] = v.GetValue()
		}
	}
	files, err := toolFiles(secrets, input)
	if err != nil {
		return dolibarr.Answer{}, errs.Wrap(verb, err)
	}
	client := strings.TrimSuffix(inst.GetAdopted().GetAppContainer(), "_dolibarr")
	argv := []string{"sh", "-c", adoptedScript, "sh", client, verb}
	return p.answered(ctx, t, app.ID, verb, argv, bytes.NewReader(files))
}

// toolFiles are the tool, what it reads on stdin and its secrets, by name.
func toolFiles(secrets map[string][]byte, input any) ([]byte, error) {
	text, err := json.Marshal(input)
	if err != nil {
		return nil, err
	}
	files := map[string]string{"input.json": string(text)}
	for name, value := range secrets {
		files["secrets/"+name] = string(value)
	}
	tool := dolibarr.Tool()
	err = fs.WalkDir(tool, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tool, name)
		files[path.Base(name)] = string(data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(files)
}
