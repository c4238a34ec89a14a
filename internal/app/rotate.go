package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
)

// Rotation says what a rotation of the sealing key did, or what stands.
type Rotation struct {
	V int `json:"v"`
	// Key is the id of the key that seals.
	Key string `json:"key"`
	// Added says that it was made now; otherwise a rotation that was interrupted
	// was gone on with.
	Added bool `json:"added"`
	// Keys counts the sealed values by the key that they need.
	Keys map[string]int `json:"keys"`
	// Sealed counts the values that were sealed anew, Dropped lists the keys that
	// were taken out of the key file.
	Sealed  int      `json:"sealed"`
	Dropped []string `json:"dropped,omitempty"`
	// Unreadable has the first values that do not open with any key, and
	// MoreUnreadable counts the others. While there are any, no key is dropped.
	Unreadable     []string `json:"unreadable,omitempty"`
	MoreUnreadable int      `json:"more_unreadable,omitempty"`
}

const (
	// sealStep bounds the values that one transaction seals anew.
	sealStep = 50
	// mostUnreadable bounds those that are named.
	mostUnreadable = 20
)

func (r *Rotation) unreadable(kind store.SealedKind, key string, err error) {
	if len(r.Unreadable) >= mostUnreadable {
		r.MoreUnreadable++
		return
	}
	r.Unreadable = append(r.Unreadable, fmt.Sprintf("%s %s: %v", kind, key, err))
}

// purposeOf is the purpose under which a value was sealed.
func purposeOf(kind store.SealedKind, key string) string {
	switch kind {
	case store.SealedSecret:
		return pipeline.SecretKeyPurpose(key)
	case store.SealedParked:
		return pipeline.ParkedPurpose(key)
	default:
		return key
	}
}

// eachSealed calls fn for every sealed value, a page at a time.
func eachSealed(ctx context.Context, st store.Store, fn func(kind store.SealedKind, page []store.SealedValue) error) error {
	for _, kind := range store.SealedKinds() {
		for after := ""; ; {
			var page []store.SealedValue
			if err := st.View(ctx, func(r store.Reader) error {
				var err error
				page, err = r.SealedAfter(kind, after, sealStep)
				return err
			}); err != nil {
				return err
			}
			if err := fn(kind, page); err != nil {
				return err
			}
			if len(page) < sealStep {
				break
			}
			after = page[len(page)-1].Key
		}
	}
	return nil
}

// offline opens the store for somebody other than a node.
func offline(ctx context.Context, cfg *config.Config) (store.Store, *seal.Keyring, error) {
	keys, chain, err := openKeys(cfg)
	if err != nil {
		return nil, nil, err
	}
	st, err := openStore(ctx, cfg, chain, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return st, keys, nil
}

// SealStatus counts the sealed values by the key that they need.
func SealStatus(ctx context.Context, cfg *config.Config) (Rotation, error) {
	st, keys, err := offline(ctx, cfg)
	if err != nil {
		return Rotation{}, err
	}
	rep := Rotation{V: staunch.Version, Key: keys.KeyIDs()[0]}
	err = rep.count(ctx, st, keys)
	return rep, errors.Join(err, st.Close())
}

// count counts the values by their keys; keys of the file that none needs count 0.
func (r *Rotation) count(ctx context.Context, st store.Store, keys *seal.Keyring) error {
	r.Keys = map[string]int{}
	for _, id := range keys.KeyIDs() {
		r.Keys[id] = 0
	}
	return eachSealed(ctx, st, func(kind store.SealedKind, page []store.SealedValue) error {
		for _, v := range page {
			if len(v.Blob) == 0 {
				continue // nothing was kept
			}
			id, err := seal.KeyOf(v.Blob)
			if err != nil {
				r.unreadable(kind, v.Key, err)
				continue
			}
			r.Keys[id]++
		}
		return nil
	})
}

// nobodyRuns refuses while a node runs: it has the keys of its start in memory,
// so it could not open what is sealed anew.
func nobodyRuns(r store.Reader, cfg *config.Config) error {
	if cfg.PostgresURL.Empty() {
		return nil // we have the only file there is to ourselves
	}
	guards, now, err := r.Guards()
	if err != nil {
		return err
	}
	for _, g := range guards {
		if g.Live(now) {
			return fmt.Errorf("%w: node %s runs; stop every node first (one that was killed counts for some seconds)", staunch.ErrConflict, g.Node)
		}
	}
	return nil
}

// RotateKey adds a sealing key, seals every value anew with it, and drops the
// old keys once nothing needs them. It needs every node stopped. Where it is
// interrupted, the next call goes on: until the old keys are dropped, the file
// has every key that a value needs.
func RotateKey(ctx context.Context, cfg *config.Config, who string) (rep Rotation, err error) {
	st, keys, err := offline(ctx, cfg)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	rep.V = staunch.Version
	if err := st.View(ctx, func(r store.Reader) error { return nobodyRuns(r, cfg) }); err != nil {
		return rep, err
	}
	if len(keys.KeyIDs()) == 1 {
		if _, err := seal.AddKey(cfg.KeyFile); err != nil {
			return rep, err
		}
		rep.Added = true
		if keys, err = seal.Load(cfg.KeyFile); err != nil {
			return rep, fmt.Errorf("loading the key file: %w", err)
		}
	}
	rep.Key = keys.KeyIDs()[0]
	// From here on no node starts that has not the new key.
	if err := st.Update(ctx, func(tx store.Tx) error {
		if err := nobodyRuns(tx, cfg); err != nil {
			return err
		}
		if err := tx.PutCursor(sealedBy, rep.Key); err != nil {
			return err
		}
		now, err := st.Now(ctx)
		if err != nil {
			return err
		}
		return appendRecord(tx, staunch.RecordConfig, who, "seal/"+rep.Key, now, map[string]any{"seal_key": rep.Key, "added": rep.Added})
	}); err != nil {
		return rep, fmt.Errorf("noting the new key: %w", err)
	}
	if err := rep.sealAnew(ctx, st, keys); err != nil {
		return rep, err
	}
	if err := rep.count(ctx, st, keys); err != nil {
		return rep, err
	}
	for id, n := range rep.Keys {
		if id != rep.Key && n > 0 || len(rep.Unreadable) > 0 {
			return rep, fmt.Errorf("%w: some values could not be sealed anew, so the old keys stay in %s", staunch.ErrInvalid, cfg.KeyFile)
		}
	}
	if rep.Dropped, err = seal.DropOldKeys(cfg.KeyFile); err != nil {
		return rep, err
	}
	for _, id := range rep.Dropped {
		delete(rep.Keys, id)
	}
	now, err := st.Now(ctx)
	if err != nil {
		return rep, err
	}
	return rep, st.Update(ctx, func(tx store.Tx) error {
		return appendRecord(tx, staunch.RecordConfig, who, "seal/"+rep.Key, now, map[string]any{
			"seal_key": rep.Key, "sealed": rep.Sealed, "dropped": rep.Dropped,
		})
	})
}

// sealAnew seals with the first key what is sealed with another, in steps that
// each commit.
func (r *Rotation) sealAnew(ctx context.Context, st store.Store, keys *seal.Keyring) error {
	return eachSealed(ctx, st, func(kind store.SealedKind, page []store.SealedValue) error {
		blobs := make([][]byte, len(page))
		for i, v := range page {
			if id, err := seal.KeyOf(v.Blob); err != nil || id == r.Key {
				continue // what has no key is told when they are counted
			}
			plain, err := keys.Unseal(purposeOf(kind, v.Key), v.Blob)
			if err != nil {
				r.unreadable(kind, v.Key, err)
				continue
			}
			blobs[i], err = keys.Seal(purposeOf(kind, v.Key), plain)
			clear(plain)
			if err != nil {
				return fmt.Errorf("sealing %s %s: %w", kind, v.Key, err)
			}
		}
		n := 0
		err := st.Update(ctx, func(tx store.Tx) error {
			n = 0
			for i, v := range page {
				if blobs[i] == nil {
					continue
				}
				ok, err := tx.ReplaceSealed(kind, v.Key, v.Blob, blobs[i])
				if err != nil {
					return err
				}
				if ok { // otherwise it was shredded meanwhile
					n++
				}
			}
			return nil
		})
		r.Sealed += n
		return err
	})
}
