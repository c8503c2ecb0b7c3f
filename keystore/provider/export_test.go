package provider

import "time"

// SetBackoff sets the pause before the second try.
func SetBackoff(h *Host, d time.Duration) { h.backoff = d }
