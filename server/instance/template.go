package instance

import (
	"time"
)

// templateRecord says what a template was made of.
type templateRecord struct {
	Images string    `json:"images"`
	Made   time.Time `json:"made"`
}

// attempt is the last try to make a template.
type attempt struct {
	images string
	at     time.Time
}
