package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// note leaves a record with the principal's name.
func note(tx store.Tx, kind staunch.RecordKind, p auth.Principal, about string, at staunch.Time, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding a %s record: %w", kind, err)
	}
	_, err = tx.AppendRecord(staunch.Record{Time: at, Kind: kind, Actor: p.Name, About: about, Body: b})
	return err
}

func (s *Server) registerTokens() {
	tags := []string{"tokens"}
	operation(s, Route{Method: "GET", Path: "/v1/tokens", Verb: auth.Token},
		huma.Operation{OperationID: "listTokens", Summary: "List the tokens, without their secrets", Tags: tags},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[Tokens], error) {
			t := Tokens{V: staunch.Version}
			err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
				t.Items, err = r.Tokens()
				return err
			})
			if err != nil {
				return nil, err
			}
			if t.Items == nil {
				t.Items = []store.Token{}
			}
			return &out[Tokens]{t}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/tokens", Verb: auth.Token},
		huma.Operation{OperationID: "createToken", Summary: "Make a token; its secret is shown this once", Tags: tags, DefaultStatus: http.StatusCreated},
		func(ctx context.Context, p auth.Principal, in *struct{ Body TokenRequest }) (*out[NewToken], error) {
			var id [10]byte
			_, _ = rand.Read(id[:]) // never fails
			secret, hash := auth.NewToken()
			now := s.now()
			t := store.Token{
				ID: "tok_" + hex.EncodeToString(id[:]), Name: in.Body.Name, Hash: hash, Role: in.Body.Role, Source: in.Body.Source,
				Realms: in.Body.Realms, Owners: in.Body.Owners, Environments: in.Body.Environments,
				Created: now, CreatedBy: p.Name,
			}
			switch ttl := in.Body.TTL.Std(); {
			case ttl < 0 || ttl > maxDuration:
				return nil, place("ttl", "must be more than zero and at most ten years")
			case ttl > 0:
				t.Expires = now.Add(ttl)
			}
			scoped := len(t.Realms)+len(t.Owners)+len(t.Environments) > 0
			if scoped && (t.Role == string(auth.RoleSource) || t.Role == string(auth.RolePEP)) {
				return nil, place("role", "a token of role %s cannot be limited to realms, owners or environments", t.Role)
			}
			if err := auth.CheckToken(t); err != nil {
				return nil, err
			}
			err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
				if err := tx.PutToken(t); err != nil {
					return err
				}
				return note(tx, staunch.RecordToken, p, t.ID, now, map[string]any{
					"made": t.ID, "name": t.Name, "role": t.Role, "source": t.Source, "realms": t.Realms,
					"owners": t.Owners, "environments": t.Environments, "expires": t.Expires,
				})
			})
			if err != nil {
				return nil, err
			}
			return &out[NewToken]{NewToken{V: staunch.Version, Token: t, Secret: secret.Reveal()}}, nil
		})

	operation(s, Route{Method: "DELETE", Path: "/v1/tokens/{id}", Verb: auth.Token},
		huma.Operation{
			OperationID: "revokeToken", Summary: "Revoke a token", Tags: tags, Errors: []int{http.StatusNotFound, http.StatusConflict},
			Description: "It is refused at once on this node, and within seconds on others. It stays in the list. The last admin's token that works cannot be revoked.",
		},
		func(ctx context.Context, p auth.Principal, in *IDInput) (*struct{}, error) {
			err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
				t, err := tx.Token(in.ID)
				if err != nil {
					return err
				}
				if t.Revoked {
					return nil // it takes effect once
				}
				now := s.now()
				if err := notLastAdmin(tx, t, now); err != nil {
					return err
				}
				t.Revoked = true
				if err := tx.PutToken(t); err != nil {
					return err
				}
				tx.OnCommit(func() { s.opt.Auth.Forget(t.ID) })
				return note(tx, staunch.RecordToken, p, t.ID, now, map[string]any{"revoked": t.ID, "name": t.Name, "role": t.Role})
			})
			return nil, err
		})
}

// notLastAdmin keeps somebody able to let others in.
func notLastAdmin(r store.Reader, t store.Token, now staunch.Time) error {
	works := func(o store.Token) bool {
		return o.Role == string(auth.RoleAdmin) && !o.Revoked && (o.Expires == 0 || o.Expires > now) &&
			len(o.Realms)+len(o.Owners)+len(o.Environments) == 0
	}
	if !works(t) {
		return nil
	}
	all, err := r.Tokens()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(o store.Token) bool { return o.ID != t.ID && works(o) }) {
		return nil
	}
	p := newProblem(http.StatusConflict, CodeConflict, "this is the last token of role admin that works")
	return p.hint("make another one first: staunch token create --role admin")
}

func (s *Server) registerOperator() {
	tags := []string{"operation"}
	operation(s, Route{Method: "GET", Path: "/v1/doctor", Verb: auth.Config, Limit: slowTimeout},
		huma.Operation{OperationID: "doctor", Summary: "Look at everything that has to work", Tags: tags},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[Diagnosis], error) {
			d, err := s.opt.Operator.Doctor(ctx)
			if err != nil {
				return nil, err
			}
			d.V = staunch.Version
			if d.Checks == nil {
				d.Checks = []Check{}
			}
			d.Healthy = !slices.ContainsFunc(d.Checks, func(c Check) bool { return c.Status == "error" })
			return &out[Diagnosis]{d}, nil
		})

	type reloadInput struct {
		KeepGoing bool `query:"keep_going" doc:"leave out the rules that are refused, in place of changing nothing"`
	}
	operation(s, Route{Method: "POST", Path: "/v1/reload", Verb: auth.Config, Limit: slowTimeout},
		huma.Operation{
			OperationID: "reload", Summary: "Read the configuration again, all or nothing", Tags: tags, Errors: []int{http.StatusConflict},
			Description: "Where anything is wrong all of it is told and nothing changes. With keep_going, rules that are refused are left out, and refused has them.",
		},
		func(ctx context.Context, p auth.Principal, in *reloadInput) (*out[Reloaded], error) {
			r, err := s.opt.Operator.Reload(ctx, p.Name, in.KeepGoing)
			if err != nil {
				return nil, err
			}
			r.V = staunch.Version
			if n := len(r.Refused) - maxFaults; n > 0 {
				r.Refused = r.Refused[:maxFaults]
				r.Notes = append(r.Notes, fmt.Sprintf("%d more reasons for which rules are refused are left out; doctor has them", n))
			}
			return &out[Reloaded]{r}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/records/verify", Verb: auth.Audit, Limit: auditTimeout},
		huma.Operation{
			OperationID: "verifyRecords", Summary: "Check the record log's chains on the server", Tags: []string{"records"},
			Description: "The answer is 200 for a broken log too: its breaks list says where. A log that was cut behind an earlier export is found only by checking against that export's checkpoint.",
		},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[record.Report], error) {
			rep, err := s.verify(ctx)
			if err != nil {
				return nil, err
			}
			return &out[record.Report]{rep}, nil
		})

	s.handle(Route{Method: "GET", Path: pathExport, Verb: auth.Audit, Limit: auditTimeout}, s.export)
}

// verify checks every lane up to the heads that the store names now; a lane
// that ends before its head was cut.
func (s *Server) verify(ctx context.Context) (record.Report, error) {
	heads, err := s.heads(ctx)
	if err != nil {
		return record.Report{}, err
	}
	marks := make([]record.Head, 0, len(heads))
	for _, h := range heads {
		marks = append(marks, record.Head{Lane: h.Lane, Seq: h.Seq, Hash: h.Hash})
	}
	past, err := s.opt.Chain.Checkpoint(s.opt.Clock.Now(), marks)
	if err != nil {
		return record.Report{}, err
	}
	v, err := record.NewVerifier(s.opt.Chain, nil, &past)
	if err != nil {
		return record.Report{}, err
	}
	for r, err := range s.records(ctx, heads) {
		if err != nil {
			return record.Report{}, err
		}
		if err := v.Add(r); err != nil {
			return record.Report{}, err
		}
	}
	return v.Finish(), nil
}

func (s *Server) heads(ctx context.Context) ([]store.Head, error) {
	var heads []store.Head
	err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
		heads, err = r.Heads()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the ends of the log: %w", err)
	}
	return slices.DeleteFunc(heads, func(h store.Head) bool { return h.Seq == 0 }), nil
}

// recordPage is how many records are read in one transaction, so that reading a
// long log keeps no snapshot open.
const recordPage = 500

// records yields every lane's records up to its head.
func (s *Server) records(ctx context.Context, heads []store.Head) iter.Seq2[staunch.Record, error] {
	return func(yield func(staunch.Record, error) bool) {
		for _, h := range heads {
			for after := int64(0); after < h.Seq; {
				var page []staunch.Record
				err := s.opt.Store.View(ctx, func(r store.Reader) (err error) {
					page, err = r.Records(h.Lane, after, recordPage)
					return err
				})
				if err != nil {
					yield(staunch.Record{}, fmt.Errorf("reading lane %s after %d: %w", h.Lane, after, err))
					return
				}
				if len(page) == 0 {
					break // the verifier says that the lane ends too early
				}
				for _, r := range page {
					if r.Seq > h.Seq {
						break
					}
					if !yield(r, nil) {
						return
					}
				}
				last := page[len(page)-1].Seq
				if last <= after {
					yield(staunch.Record{}, fmt.Errorf("lane %s does not go on after %d", h.Lane, after))
					return
				}
				after = last
			}
		}
	}
}

const pathExport = "/v1/records/export"

// export streams the log. Once it has begun, a failure can only be told by
// breaking the connection off; without its checkpoint the export is worth
// nothing, and Verify says so.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	heads, err := s.heads(r.Context())
	if err != nil {
		writeProblem(w, s.fail(r.Context(), err))
		return
	}
	now := s.opt.Clock.Now()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="staunch-records-%s.ndjson"`, now.UTC().Format("20060102T150405Z")))
	_, err = record.Export(&patient{w: w, c: http.NewResponseController(w)}, s.opt.Chain, now, s.records(r.Context(), heads))
	switch {
	case err == nil:
	case errors.Is(err, record.ErrBroken):
		// It was written to its end, as evidence, and has no checkpoint.
		s.opt.Log.Error("the record log was changed", "error", err, "request", requestID(r.Context()))
	default:
		s.opt.Log.Error("exporting the record log", "error", err, "request", requestID(r.Context()))
		panic(http.ErrAbortHandler)
	}
}

// patient moves the connection's deadline with every write, so that a slow
// reader gets the whole, and one that has stopped reading is let go.
type patient struct {
	w io.Writer
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(bodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

// sourceName reports whether s can be a source's name.
func sourceName(s string) bool { return s != "" && len(s) <= 128 && !strings.ContainsAny(s, "/\x00") }
