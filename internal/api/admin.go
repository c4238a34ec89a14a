package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	operation(s, Route{Method: "GET", Path: "/v1/store", Verb: auth.Config, Limit: slowTimeout},
		huma.Operation{
			OperationID: "getStorage", Summary: "What the database has, and how long it is kept", Tags: tags,
			Description: "Rows and bytes of large tables are estimates.",
		},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[Storage], error) {
			st, err := s.opt.Operator.Storage(ctx)
			if err != nil {
				return nil, err
			}
			st.V = staunch.Version
			if st.Tables == nil {
				st.Tables = []store.TableSize{}
			}
			return &out[Storage]{st}, nil
		})

	operation(s, Route{Method: "GET", Path: "/v1/store/preview", Verb: auth.Config, Limit: slowTimeout},
		huma.Operation{
			OperationID: "previewRetention", Summary: "What would be deleted now, being older than it is kept for", Tags: tags,
			Description: "It looks for at most some seconds; sweep.truncated says that there is more. What goes only after something else is not counted.",
		},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[StoragePreview], error) {
			sweep, err := s.opt.Operator.PreviewRetention(ctx)
			if err != nil {
				return nil, err
			}
			if sweep.Kinds == nil {
				sweep.Kinds = []store.Swept{}
			}
			return &out[StoragePreview]{StoragePreview{V: staunch.Version, Sweep: sweep}}, nil
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
			Description: "The answer is 200 for a broken log too: its breaks list says where. What the newest checkpoint that the node knows of saw must still be there. A log that was cut by somebody who can write its checkpoints too is found only by checking against one that is kept elsewhere.",
		},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[record.Report], error) {
			past, err := s.opt.Operator.LastCheckpoint() // before the heads are read
			if err != nil {
				return nil, err
			}
			logged, err := s.logged(past)
			if err != nil {
				return nil, newProblem(http.StatusConflict, CodeConflict, message(fmt.Errorf("the newest checkpoint was changed: %w", err)))
			}
			rep, err := s.log().Verify(ctx, past)
			if err != nil {
				return nil, err
			}
			rep.Logged = logged
			return &out[record.Report]{rep}, nil
		})

	// A checkpoint has a head a lane, and a receipt.
	operation(s, Route{Method: "POST", Path: "/v1/records/verify", Verb: auth.Audit, Limit: auditTimeout, Body: MaxLongBody},
		huma.Operation{
			OperationID: "verifyRecordsPast", Summary: "Check the record log against a checkpoint that was signed before", Tags: []string{"records"},
			Description: "The body is the checkpoint. What it saw must still be there, which is how a log that was cut or written anew is found out. Its receipt of a transparency log is checked with `log_key`, without which a checkpoint may have none; else with the configured log's key, where it is of that log.",
		},
		func(ctx context.Context, _ auth.Principal, in *verifyPastInput) (*out[record.Report], error) {
			err := in.Body.Verify(s.opt.Chain.PublicKey())
			if errors.Is(err, record.ErrSignature) {
				return nil, place("signature", "the checkpoint was not signed by this log's key as it stands")
			}
			if err != nil {
				return nil, err
			}
			logged, err := s.logged(&in.Body)
			if in.LogKey != "" {
				log, perr := record.ParseTransparencyLog(in.LogKey, in.LogOrigin)
				if perr != nil {
					return nil, place("log_key", "%v", perr)
				}
				logged = new(record.Logged)
				*logged, err = in.Body.VerifyLogged(s.opt.Chain.PublicKey(), log)
			}
			if err != nil {
				return nil, place("logged", "%v", err)
			}
			rep, err := s.log().Verify(ctx, &in.Body)
			if err != nil {
				return nil, err
			}
			rep.Logged = logged
			return &out[record.Report]{rep}, nil
		})

	operation(s, Route{Method: "POST", Path: "/v1/records/checkpoint", Verb: auth.Audit, Limit: auditTimeout},
		huma.Operation{
			OperationID: "checkpointRecords", Summary: "Sign a checkpoint of the record log", Tags: []string{"records"},
			Description: "What came since the checkpoint before is checked first; a log that was changed gives 409 and no checkpoint. It goes to the configured file, channel and transparency log as well; where only the last did not take it, the answer is 502. Keep it in another place to check later logs against.",
			Errors:      []int{http.StatusConflict, http.StatusBadGateway},
		},
		func(ctx context.Context, _ auth.Principal, _ *struct{}) (*out[record.Checkpoint], error) {
			cp, err := s.opt.Operator.Checkpoint(ctx)
			if errors.Is(err, record.ErrBroken) {
				s.opt.Log.Error("the record log was changed", "error", err, "request", requestID(ctx))
				return nil, newProblem(http.StatusConflict, CodeConflict, message(err)).hint("staunch audit verify says where")
			}
			if errors.Is(err, record.ErrNotLogged) {
				return nil, newProblem(http.StatusBadGateway, CodePlatformUnavailable, message(err)).hint("what is configured as its file and channel has it all the same; ask again for one that is logged")
			}
			if err != nil {
				return nil, err
			}
			return &out[record.Checkpoint]{cp}, nil
		})

	s.handle(Route{Method: "GET", Path: pathExport, Verb: auth.Audit, Limit: auditTimeout}, s.export)
}

// verifyPastInput is a checkpoint, and the transparency log that is to have it.
type verifyPastInput struct {
	LogKey    string `query:"log_key" maxLength:"4096" doc:"A transparency log's public key: the checkpoint has to have its receipt"`
	LogOrigin string `query:"log_origin" maxLength:"255" doc:"The name that the log signs under, where the key has none"`
	Body      record.Checkpoint
}

// logged is what a checkpoint's receipt says, as far as the configured log's key
// can tell: of another log, such as the one before, it is not checked. It is nil
// where there is none.
func (s *Server) logged(cp *record.Checkpoint) (*record.Logged, error) {
	switch {
	case cp == nil || cp.Logged == nil:
		return nil, nil
	case s.opt.TransparencyLog == nil:
		return &record.Logged{}, nil
	}
	l, err := cp.VerifyLogged(s.opt.Chain.PublicKey(), s.opt.TransparencyLog)
	if errors.Is(err, record.ErrWrongKey) {
		return &record.Logged{}, nil
	}
	return &l, err
}

// log is the store's record log.
func (s *Server) log() record.Log { return record.Log{Store: s.opt.Store, Chain: s.opt.Chain} }

const pathExport = "/v1/records/export"

// export streams the log. Once it has begun, a failure can only be told by
// breaking the connection off; without its checkpoint the export is worth
// nothing, and Verify says so.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	heads, err := s.log().Heads(r.Context())
	if err != nil {
		writeProblem(w, s.fail(r.Context(), err))
		return
	}
	now := s.opt.Clock.Now()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="staunch-records-%s.ndjson"`, now.UTC().Format("20060102T150405Z")))
	_, err = record.Export(&patient{w: w, c: http.NewResponseController(w)}, s.opt.Chain, now, s.log().Records(r.Context(), heads))
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
