package host

import (
	"context"
	"io"
	"log/slog"
)

// NewLogger returns a logger that writes one JSON object a line, times in UTC:
// from level up to below Error to stdout, Error and above to stderr. The host
// goes by the stream, not by our level. It is safe for concurrent use.
func NewLogger(stdout, stderr io.Writer, level slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		}
		return a
	}}
	return slog.New(split{below: slog.NewJSONHandler(stdout, o), errors: slog.NewJSONHandler(stderr, o)})
}

// split sends records to one of two handlers, by level.
type split struct{ below, errors slog.Handler }

func (s split) pick(level slog.Level) slog.Handler {
	if level >= slog.LevelError {
		return s.errors
	}
	return s.below
}

func (s split) Enabled(ctx context.Context, level slog.Level) bool {
	return s.pick(level).Enabled(ctx, level)
}

func (s split) Handle(ctx context.Context, r slog.Record) error {
	return s.pick(r.Level).Handle(ctx, r)
}

func (s split) WithAttrs(attrs []slog.Attr) slog.Handler {
	return split{s.below.WithAttrs(attrs), s.errors.WithAttrs(attrs)}
}

func (s split) WithGroup(name string) slog.Handler {
	return split{s.below.WithGroup(name), s.errors.WithGroup(name)}
}
