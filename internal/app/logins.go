package app

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

// Bounds of what logins write.
const (
	// mostLogins bounds the records of tokens in use in an hour; mostNetworks those
	// that are named of callers without a valid token.
	mostLogins   = 1000
	mostNetworks = 20
	// tellRefused is how often a record counts those callers.
	tellRefused = 10 * time.Minute
	// flushLogins is how long a login waits for its record. Nobody waits for it: a
	// request goes on at once, and what a crash loses are the last logins alone.
	flushLogins = time.Second
)

// logins turns look-ups of tokens into records: one when a token is first used in
// an hour of the clock from an address, as long as this process runs, and now and
// then one that counts callers without a valid token.
type logins struct {
	mu   sync.Mutex
	hour int64
	// seen has what has its record in this hour, waiting what is to be written.
	seen    map[seenLogin]bool
	waiting []auth.Login

	refused  int
	networks map[string]int
	since    staunch.Time // the first of those refused
}

type seenLogin struct {
	token string
	from  netip.Prefix
}

// note is called for every look-up and does not block.
func (l *logins) note(in auth.Login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if in.Err != nil {
		if l.refused++; l.refused == 1 {
			l.since, l.networks = in.At, map[string]int{}
		}
		name := addressOf(in.From)
		if _, ok := l.networks[name]; !ok && len(l.networks) >= mostNetworks {
			name = "others"
		}
		l.networks[name]++
		return
	}
	if hour := in.At.Std().Unix() / 3600; l.seen == nil || hour != l.hour {
		l.hour, l.seen = hour, map[seenLogin]bool{}
	}
	key := seenLogin{in.Principal.ID, in.From}
	if !l.seen[key] && len(l.seen) < mostLogins {
		l.seen[key] = true
		l.waiting = append(l.waiting, in)
	}
}

// addressOf is an address without its length, a network with it.
func addressOf(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "unknown"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// refusals is the count of callers without a valid token.
type refusals struct {
	n        int
	networks map[string]int
	since    staunch.Time
}

// take returns what is to be written, and has it forgotten.
func (l *logins) take(now staunch.Time, all bool) ([]auth.Login, refusals) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r refusals
	if l.refused > 0 && (all || now.Sub(l.since) >= tellRefused) {
		r = refusals{l.refused, l.networks, l.since}
		l.refused, l.networks, l.since = 0, nil, 0
	}
	w := l.waiting
	l.waiting = nil
	return w, r
}

// back puts what could not be written where it was, within the bound.
func (l *logins) back(w []auth.Login) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w = append(w, l.waiting...)
	l.waiting = w[:min(len(w), mostLogins)]
}

// writeLogins writes records of what came since the last time.
func (a *App) writeLogins(ctx context.Context, all bool) error {
	now := staunch.TimeOf(a.opt.Clock.Now())
	w, refused := a.logins.take(now, all)
	if len(w) == 0 && refused.n == 0 {
		return nil
	}
	err := a.store.Update(ctx, func(tx store.Tx) error {
		for _, in := range w {
			p := in.Principal
			body := map[string]any{"token": p.ID, "role": p.Role, "from": addressOf(in.From), "node": a.cfg.Node}
			if p.Source != "" {
				body["source"] = p.Source
			}
			if err := appendRecord(tx, staunch.RecordLogin, p.Name, p.ID, in.At, body); err != nil {
				return err
			}
		}
		if refused.n == 0 {
			return nil
		}
		return appendRecord(tx, staunch.RecordLogin, "engine", a.cfg.Node, now, map[string]any{
			"refused": refused.n, "from": refused.networks, "since": refused.since, "node": a.cfg.Node,
		})
	})
	if err != nil {
		a.logins.back(w)
	}
	return err
}

// keepLogins writes logins until ctx ends, and then what is left.
func (a *App) keepLogins(ctx context.Context) {
	t := time.NewTicker(flushLogins)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := a.writeLogins(last, true); err != nil {
				a.opt.Log.Error("writing the last logins to the record log", "error", err)
			}
			return
		case <-t.C:
		}
		if err := a.writeLogins(ctx, false); err != nil && ctx.Err() == nil {
			a.opt.Log.Error("writing logins to the record log", "error", err)
		}
	}
}
