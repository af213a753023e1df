// Package dolibarr knows how Dolibarr is installed and kept: the tool that runs inside an instance's containers, what is said to it and
// what it answers, and which versions run on which base. Facts come from the project's own installer, read and run.
package dolibarr

import (
	"embed"
	"io/fs"
)

const (
	// ToolDir is where the tool's folder is mounted in an instance's containers.
	ToolDir = "/usr/local/lib/infractl"
	// ToolFile is what PHP runs: php ToolFile VERB, as www-data, with the verb's input on stdin.
	ToolFile = ToolDir + "/tool.php"
	// CronFile is the command of a container of scheduled jobs: sh CronFile, as www-data. It ends between two jobs when it is told to.
	CronFile = ToolDir + "/cron.sh"
	// SecretsDir is where the tool finds its secrets, one file each: db, admin, unique-id, cron-key.
	SecretsDir = "/run/secrets"
	// HTDocs is where the code is, in our image and in the official one, as with the next three.
	HTDocs = "/var/www/html"
	// Documents is a volume: what customers store.
	Documents = "/var/www/documents"
	// Custom is a volume: external modules.
	Custom = HTDocs + "/custom"
	// Conf holds conf.php.
	Conf = HTDocs + "/conf"
	// WebUser is the user and group that Apache and the tool run as.
	WebUser = 33
)

//go:embed tool/*.php tool/cron.sh
var tool embed.FS

// Tool is the folder of the tool: tool.php, the files that it includes, and cron.sh.
func Tool() fs.FS {
	dir, err := fs.Sub(tool, "tool")
	if err != nil {
		panic(err) // the name is a constant and the folder is compiled in
	}
	return dir
}

// The tool's verbs.
const (
	// VerbInstall runs the installer on an empty database; input InstallInput.
	VerbInstall = "install"
	// VerbConfigure writes conf.php and settings again, after a template copy and after a rename; input InstallInput.
	VerbConfigure = "configure"
	// VerbPassword sets an administrator's password from the secret admin; input PasswordInput.
	VerbPassword = "password"
	// VerbModules turns modules on and off; input ModulesInput.
	VerbModules = "modules"
	// VerbStatus tells the versions of code and database; no input.
	VerbStatus = "status"
	// VerbCron runs the scheduled jobs every five minutes until the file INFRACTL_STOP is there; no input. CronFile starts it.
	VerbCron = "cron"
)

// InstallInput is the input of install and configure. For configure an empty field means that it stays as it is.
type InstallInput struct {
	// URL is the public address, such as https://acme.example.org, without a path.
	URL string `json:"url,omitempty"`
	// DBHost, DBName and DBUser name the database; its password is the secret db. DBPort empty means 3306.
	DBHost string `json:"db_host,omitempty"`
	DBPort string `json:"db_port,omitempty"`
	DBName string `json:"db_name,omitempty"`
	DBUser string `json:"db_user,omitempty"`
	// AdminLogin is the first administrator; empty means admin.
	AdminLogin string `json:"admin_login,omitempty"`
	// Company, Country (FR), Language (fr, en or fr_FR) and Timezone (Europe/Paris) describe the customer.
	Company  string `json:"company,omitempty"`
	Country  string `json:"country,omitempty"`
	Language string `json:"language,omitempty"`
	Timezone string `json:"timezone,omitempty"`
	// Modules are turned on beside the scheduled jobs, which always are: names such as Societe, in any case.
	Modules []string `json:"modules,omitempty"`
}

// PasswordInput is the input of password.
type PasswordInput struct {
	// AdminLogin is whose password is set; empty means admin.
	AdminLogin string `json:"admin_login,omitempty"`
}

// ModulesInput is the input of modules.
type ModulesInput struct {
	// Enable and Disable are names such as Societe, in any case.
	Enable  []string `json:"enable,omitempty"`
	Disable []string `json:"disable,omitempty"`
}
