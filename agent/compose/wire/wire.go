// Package wire is what the agent and its helper infractl-compose say to each other: one request on the helper's standard
// input, lines of JSON on its standard output. It is apart so that the agent does not hold Docker's Compose library.
package wire

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// MaxRequest is the largest request, in bytes. File contents are not in it.
const MaxRequest = 4 << 20

// The actions.
const (
	// Up makes the stack as its file says, waits for its health and takes down what is no longer in it.
	Up = "up"
	// Down removes the stack's containers and networks; volumes stay.
	Down = "down"
	// Config reads the file and says what is in it. It does not ask the engine.
	Config = "config"
)

// Request is what the helper does once.
type Request struct {
	// Action is up, down or config.
	Action string `json:"action"`
	// Project is the stack's name.
	Project string `json:"project"`
	// Dir is the folder of the Compose file, absolute; File is the file's name in it. Not needed to take down.
	Dir  string `json:"dir,omitempty"`
	File string `json:"file,omitempty"`
	// Files are the files beside it that the agent wrote, relative to Dir: a container that mounts a changed one is made new.
	Files []string `json:"files,omitempty"`
	// Socket is the engine's Unix socket.
	Socket string `json:"socket,omitempty"`
	// Variables are all that the file may interpolate.
	Variables map[string]string `json:"variables,omitempty"`
	// Images say what runs for each image that the file names; one that is not in it is refused.
	Images map[string]string `json:"images,omitempty"`
	// SecretDir is the folder with the files of external secrets: SecretFile names them.
	SecretDir string `json:"secret_dir,omitempty"`
	// Secrets are the versions of the external secrets by name; never values.
	Secrets map[string]string `json:"secrets,omitempty"`
	// WaitSeconds bounds how long services may take to become healthy.
	WaitSeconds int `json:"wait_seconds,omitempty"`
}

// Line is one line of the answer: Progress, or at last Result.
type Line struct {
	// Progress says what happens, for people.
	Progress string `json:"progress,omitempty"`
	// Result ends the answer.
	Result *Result `json:"result,omitempty"`
}

// Result is what came of it.
type Result struct {
	// Code and Error say what went wrong, in the terms of package errs; empty when all is well.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Services are sorted by name; empty after down.
	Services []Service `json:"services,omitempty"`
}

// Service is a service of the stack.
type Service struct {
	// Name is the service's name.
	Name string `json:"name"`
	// Hash is the digest of its configuration, as it stands on its containers.
	Hash string `json:"hash"`
	// Image is the image that runs.
	Image string `json:"image"`
	// Replicas is how many containers it has.
	Replicas int `json:"replicas"`
	// Completes says that its container ends by itself and that another service waits for it.
	Completes bool `json:"completes,omitempty"`
	// Checked says that it has a health check of its own; the image's may come to it.
	Checked bool `json:"checked,omitempty"`
	// Secrets are the external secrets that it uses.
	Secrets []Secret `json:"secrets,omitempty"`
	// Containers are the ids of its containers, after up.
	Containers []string `json:"containers,omitempty"`
}

// Secret is a use of an external secret.
type Secret struct {
	// Name is the secret's name on the server.
	Name string `json:"name"`
	// UID and GID own its file.
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// ReadRequest reads a request strictly.
func ReadRequest(r io.Reader) (*Request, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxRequest+1))
	if err != nil {
		return nil, errs.Wrap("read the request", err)
	}
	if len(data) > MaxRequest {
		return nil, errs.New(errs.Invalid, "the request is larger than %d bytes", MaxRequest)
	}
	req := &Request{}
	if err := strictjson.Unmarshal(data, req); err != nil {
		return nil, errs.New(errs.Invalid, "the request does not parse: %w", err)
	}
	return req, nil
}

// ReadResult finds the result in the helper's output. Without one the helper died.
func ReadResult(output []byte) (*Result, error) {
	for line := range bytes.Lines(output) {
		var l Line
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, errs.New(errs.Internal, "infractl-compose said something that is not JSON")
		}
		if l.Result == nil {
			continue
		}
		if l.Result.Error != "" {
			e := errs.New(errs.Code(l.Result.Code), "%s", l.Result.Error)
			if l.Result.Hint != "" {
				e = e.WithHint("%s", l.Result.Hint)
			}
			return l.Result, e
		}
		return l.Result, nil
	}
	return nil, errs.New(errs.Internal, "infractl-compose ended without a result")
}
