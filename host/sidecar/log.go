package main

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
)

// secret is a key that no formatting shows.
type secret string

func (secret) String() string               { return "(secret)" }
func (secret) GoString() string             { return "(secret)" }
func (secret) LogValue() slog.Value         { return slog.StringValue("(secret)") }
func (secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// Keys of Tailscale (tskey-auth-…, tskey-client-…) and headscale (hskey-auth-…), whoever let them slip.
var keyPattern = regexp.MustCompile(`\b[th]skey-[A-Za-z0-9_-]+`)

// secretValues are strings that must never be written, whatever they look like.
type secretValues struct {
	mu     sync.RWMutex
	values map[string]struct{}
}

func (s *secretValues) add(value secret) {
	if len(value) < 4 { // too short to be a key; replacing it would make the log unreadable
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[string(value)] = struct{}{}
}

func (s *secretValues) redact(text string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for value := range s.values {
		text = strings.ReplaceAll(text, value, "(secret)")
	}
	return keyPattern.ReplaceAllString(text, "(secret)")
}

// newLog writes one JSON object a line, keys redacted from every text in it.
func newLog(w io.Writer, verbose bool) (*slog.Logger, *secretValues) {
	secrets := &secretValues{values: map[string]struct{}{}}
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindString {
				a.Value = slog.StringValue(secrets.redact(a.Value.String()))
			}
			return a
		},
	})), secrets
}

// libraryLogf is the Tailscale library's log: a line at level DEBUG.
func libraryLogf(log *slog.Logger) func(string, ...any) {
	return func(format string, arguments ...any) {
		log.Debug(strings.TrimSpace(fmt.Sprintf(format, arguments...)))
	}
}
