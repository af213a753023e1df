package sshd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// asking says whether an answer of sshd that is a moment old will do.
type asking int

const (
	// afresh asks sshd: a plan and a verification must not trust a memory.
	afresh asking = iota
	// again is for the steps of one change, which ask about files that nobody has touched since its plan.
	again
)

// answerLife is how long an answer is good for a further step of the same change.
const answerLife = 5 * time.Second

// answer is what sshd said about files of a certain content.
type answer struct {
	files [sha256.Size]byte
	at    time.Time
	said  effective
}

// present returns what sshd's files amount to now.
func (p *Provider) present(ctx context.Context, ask asking) (effective, error) {
	files, err := p.content()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if ask == again && last.files == files && time.Since(last.at) < answerLife {
		return last.said, nil
	}
	said, err := p.effective(ctx, mainFile)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.last = answer{files: files, at: time.Now(), said: said}
	p.mu.Unlock()
	return said, nil
}

// content is a digest of the files that sshd reads.
func (p *Provider) content() (sum [sha256.Size]byte, err error) {
	paths, err := p.host.Glob(dropIns)
	if err != nil {
		return sum, errs.Wrap("list the files of sshd", err)
	}
	var all bytes.Buffer
	for _, file := range append([]string{mainFile}, paths...) {
		data, err := p.host.ReadFile(file)
		if err != nil {
			data = []byte(err.Error()) // sshd itself says what it makes of it
		}
		all.WriteString(file + "\n")
		all.Write(data)
	}
	return sha256.Sum256(all.Bytes()), nil
}
