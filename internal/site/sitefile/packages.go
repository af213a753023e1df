package sitefile

// Packages are packages of the operating system. They are named as the distribution names them.
type Packages struct {
	// Packages that are installed.
	Present []string `yaml:"present"`
	// Packages that are removed, with their configuration.
	Absent []string `yaml:"absent"`
	// Packages that stay at the version that they have.
	Hold []string `yaml:"hold"`
}
