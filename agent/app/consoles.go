package app

import "github.com/infractl/infractl/agent/console"

// consoles makes what carries logs and commands to operators.
func (a *App) consoles() *console.Consoles {
	cfg := console.Config{Host: a.host, Log: a.log.Named("console"), Stacks: a.stackNames, Instances: a.instanceIDs,
		Adopted: a.adoptedContainers}
	if a.providers.Stacks != nil {
		cfg.Engine = console.NewEngine(a.providers.Stacks.Engine)
	}
	return console.New(cfg)
}

// stackNames are the stacks of the spec that was last worked on.
func (a *App) stackNames() []string {
	var names []string
	for _, s := range a.engine.Spec().GetContainers().GetStacks() {
		names = append(names, s.GetName())
	}
	return names
}

// instanceIDs are the ids of the instances of the spec that was last worked on, by name.
func (a *App) instanceIDs() map[string]string {
	ids := map[string]string{}
	for _, i := range a.engine.Spec().GetDolibarr().GetInstances() {
		ids[i.GetName()] = i.GetId()
	}
	return ids
}

// adoptedContainers are the containers of adopted instances, by instance and part.
func (a *App) adoptedContainers() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, i := range a.engine.Spec().GetDolibarr().GetInstances() {
		if of := i.GetAdopted(); of != nil {
			out[i.GetName()] = map[string]string{"app": of.GetAppContainer(), "db": of.GetDbContainer()}
		}
	}
	return out
}
