package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// spec is the description in both forms.
type spec struct{ json, yaml []byte }

// write writes the description, which costs more than all else of a start; few ask
// for it.
func write(o *huma.OpenAPI) (out spec, err error) {
	if out.json, err = json.Marshal(o); err == nil {
		out.yaml, err = o.YAML()
	}
	if err != nil {
		return spec{}, fmt.Errorf("writing the description: %w", err)
	}
	return out, nil
}

// OpenAPI returns the description of the whole API as YAML, OpenAPI 3.1.
func OpenAPI() ([]byte, error) {
	s, err := build(Options{URL: "http://127.0.0.1:8422", Version: "1"})
	if err != nil {
		return nil, err
	}
	out, err := s.spec()
	return out.yaml, err
}

// encoding/json takes a member of any case of letters for a field's, and so does
// huma unless it is told. Of {"role":"viewer","ROLE":"admin"} it then checks the
// one and uses the other, and people who read a plan file see what is not applied.
func init() { huma.ValidateStrictCasing = true }

// unmarshal decodes a body that has one reading only: no duplicate keys, valid
// UTF-8, bounded depth. Whether names are spelled as they are described is
// for huma's validation to see.
func unmarshal(data []byte, v any) error {
	if err := jsondoc.New(jsondoc.Limits{Bytes: MaxLongBody, Depth: 32}).Parse(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Types whose JSON is text though they are numbers in Go.
type (
	timeText struct{}
	tierText struct{}
	modeText struct{}
)

// Schema describes a staunch.Time.
func (timeText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true, Description: "RFC 3339, UTC, microseconds; null where not known or never"}
}

// Schema describes a staunch.Tier.
func (tierText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: []any{"observe", "restrict", "isolate", "revoke"}}
}

// Schema describes a staunch.Mode.
func (modeText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: []any{"shadow", "recommend", "enforce"}}
}

// register registers every route.
func (s *Server) register() (err error) {
	// A mistake in registering is found here and not by the first request.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("registering the API: %v", v)
		}
	}()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[staunch.Time](), reflect.TypeFor[timeText]())
	registry.RegisterTypeAlias(reflect.TypeFor[staunch.Tier](), reflect.TypeFor[tierText]())
	registry.RegisterTypeAlias(reflect.TypeFor[staunch.Mode](), reflect.TypeFor[modeText]())
	registry.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[Problem]())
	s.api = humago.New(s, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "staunch", Version: s.opt.Version,
				Description: "The identity-containment engine's API. Every endpoint but /healthz and /readyz needs a bearer token; errors are RFC 9457 problem details.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer": {Type: "http", Scheme: "bearer", Description: "A token that staunch init or staunch token create printed."},
				},
			},
		},
		Formats: map[string]huma.Format{
			"application/json": {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal},
			"json":             {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal},
		},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{rewrite},
	})
	s.api.UseMiddleware(oneStatus)

	s.registerIngest()
	s.registerContainments()
	s.registerPlans()
	s.registerBacktest()
	s.registerLists()
	s.registerBreakers()
	s.registerTrust()
	s.registerDrills()
	s.registerHealth()
	s.registerTokens()
	s.registerOperator()
	if err := s.registerAuthZEN(); err != nil {
		return err
	}
	s.registerProcess()
	s.describe(registry)

	for path, item := range s.api.OpenAPI().Paths {
		if item == nil {
			return fmt.Errorf("%s has no description", path)
		}
	}
	s.spec = sync.OnceValues(func() (spec, error) { return write(s.api.OpenAPI()) })
	return nil
}

// registerProcess registers what watches the process.
func (s *Server) registerProcess() {
	alive := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	s.handle(Route{Method: "GET", Path: "/healthz", Limit: leanTimeout}, alive)
	s.handle(Route{Method: "GET", Path: "/readyz", Limit: leanTimeout}, func(w http.ResponseWriter, r *http.Request) {
		if err := s.opt.Operator.Ready(r.Context()); err != nil {
			s.opt.Log.Debug("not ready", "error", err)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		alive(w, r)
	})
	metrics := Route{Method: "GET", Path: "/metrics", Verb: auth.Metrics}
	if s.opt.MetricsOpen {
		metrics.Verb = ""
	}
	s.handle(metrics, func(w http.ResponseWriter, r *http.Request) {
		if s.opt.Metrics == nil {
			writeProblem(w, s.fail(r.Context(), fmt.Errorf("metrics: %w", staunch.ErrNotFound)))
			return
		}
		s.opt.Metrics.ServeHTTP(w, r)
	})
	description := func(path, contentType string, form func(spec) []byte) {
		s.handle(Route{Method: "GET", Path: path, Verb: auth.Read}, func(w http.ResponseWriter, r *http.Request) {
			out, err := s.spec()
			if err != nil {
				writeProblem(w, s.fail(r.Context(), err))
				return
			}
			w.Header().Set("Content-Type", contentType)
			_, _ = w.Write(form(out)) // whoever asked may be gone
		})
	}
	description("/openapi.json", "application/openapi+json", func(s spec) []byte { return s.json })
	description("/openapi.yaml", "application/openapi+yaml", func(s spec) []byte { return s.yaml })
}

// describe adds what is served without huma to the description.
func (s *Server) describe(reg huma.Registry) {
	schema := func(t reflect.Type) *huma.Schema { return reg.Schema(t, true, "") }
	text := func(ct, description string) *huma.Response {
		return &huma.Response{Description: description, Content: map[string]*huma.MediaType{ct: {Schema: &huma.Schema{Type: huma.TypeString}}}}
	}
	jsonOf := func(sc *huma.Schema, description string) *huma.Response {
		return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: sc}}}
	}
	problem := func(status int) *huma.Response {
		return &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: schema(reflect.TypeFor[Problem]())},
		}}
	}
	add := func(method, path, id, summary string, tag string, op huma.Operation, errs ...int) {
		rt := s.byPath[method+" "+path]
		op.Method, op.Path, op.OperationID, op.Summary, op.Tags = method, path, id, summary, []string{tag}
		op.Description += s.needs(rt.Verb)
		if rt.Verb != "" {
			op.Security = bearer()
			errs = append(errs, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests)
		}
		for _, e := range errs {
			op.Responses[fmt.Sprint(e)] = problem(e)
		}
		s.api.OpenAPI().AddOperation(&op)
	}
	sourceParam := []*huma.Param{{Name: "source", In: "path", Required: true, Description: "a configured source", Schema: &huma.Schema{Type: huma.TypeString}}}
	anyJSON := &huma.Schema{Description: "a record, an array of records, or a vendor's envelope"}

	add("POST", pathIngest, "ingest", "Post records", "ingest", huma.Operation{
		Description: "The body is a JSON object, an array, NDJSON, or a vendor's envelope, plain or gzip, at most 10 MiB either way. What is bad is reported by number and the rest is kept; sending records again does no harm. The answer comes once what had to be kept is durable.\n\n",
		Parameters:  sourceParam,
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: anyJSON}, "application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString}}}},
		Responses:   map[string]*huma.Response{"200": jsonOf(schema(reflect.TypeFor[IngestReport]()), "What became of the records")},
	}, 400, 404, 413, 503)
	add("GET", pathIngest, "ingestChallenge", "Answer a vendor's verification request", "ingest", huma.Operation{
		Parameters: sourceParam,
		Responses:  map[string]*huma.Response{"200": {Description: "The vendor's own form"}},
	}, 404)
	add("GET", pathExport, "exportRecords", "Export the record log with a signed checkpoint", "records", huma.Operation{
		Description: "NDJSON, streamed. An export that ends without a checkpoint was cut off, or the log is broken. Keep checkpoints in another place to check later logs against.\n\n",
		Responses:   map[string]*huma.Response{"200": text("application/x-ndjson", "The log")},
	}, 500)
	add("POST", pathBacktest, "backtest", "What would other policies have contained?", "backtest", huma.Operation{
		Description: "Decides what was decided once more, with other policies, and compares it with those that are active. It changes nothing. The answer is NDJSON, streamed: lines of type progress now and then, subject, and one of type summary at the end; an answer without that was cut off, and a line of type error says why. One runs at a time on a node; another is answered with 429.\n\n",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema(reflect.TypeFor[BacktestRequest]())}}},
		Responses:   map[string]*huma.Response{"200": {Description: "The lines", Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: schema(reflect.TypeFor[BacktestLine]())}}}},
	}, 400, 413)
	request := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, Description: "see the OpenID AuthZEN Authorization API 1.0", AdditionalProperties: true}}}}
	answer := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
	azDoc := "OpenID AuthZEN Authorization API 1.0. No hold means true with the reason no_hold: the guard takes away, it never grants.\n\n"
	add("POST", pathEvaluation, "evaluation", "May this action go on?", "authzen", huma.Operation{
		Description: azDoc, RequestBody: request, Responses: map[string]*huma.Response{"200": jsonOf(answer, "The decision, with its reason in context")},
	}, 400)
	add("POST", pathEvaluations, "evaluations", "May these actions go on?", "authzen", huma.Operation{
		Description: azDoc, RequestBody: request, Responses: map[string]*huma.Response{"200": jsonOf(answer, "The decisions, in order")},
	}, 400)
	add("GET", pathDiscovery, "authzenConfiguration", "Where AuthZEN's endpoints are", "authzen", huma.Operation{
		Responses: map[string]*huma.Response{"200": jsonOf(schema(reflect.TypeFor[Discovery]()), "The discovery document")},
	})
	empty := func(unready bool) map[string]*huma.Response {
		r := map[string]*huma.Response{"204": {Description: "Yes"}}
		if unready {
			r["503"] = &huma.Response{Description: "No"}
		}
		return r
	}
	add("GET", "/healthz", "healthz", "Is the process alive?", "process", huma.Operation{Responses: empty(false)})
	add("GET", "/readyz", "readyz", "May requests be sent?", "process", huma.Operation{Responses: empty(true)})
	add("GET", "/metrics", "metrics", "Prometheus metrics", "process", huma.Operation{
		Description: "Open on loopback where the configuration says so.\n\n", Responses: map[string]*huma.Response{"200": text("text/plain", "The metrics")},
	})
	add("GET", "/openapi.json", "openapiJSON", "This description as JSON", "process", huma.Operation{Responses: map[string]*huma.Response{"200": text("application/openapi+json", "OpenAPI 3.1")}})
	add("GET", "/openapi.yaml", "openapiYAML", "This description as YAML", "process", huma.Operation{Responses: map[string]*huma.Response{"200": text("application/openapi+yaml", "OpenAPI 3.1")}})

	// A manual containment that was there already is the same body with 200.
	contain := s.api.OpenAPI().Paths["/v1/containments"].Post
	contain.Responses["200"] = jsonOf(schema(reflect.TypeFor[Opened]()), "It was there already, or was raised")
	apply := s.api.OpenAPI().Paths[pathApply].Post
	apply.Responses["200"] = jsonOf(schema(reflect.TypeFor[Opened]()), "It was applied already, and its case is open")

	tags := map[string]bool{}
	for _, item := range s.api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op != nil {
				delete(op.Responses, "422") // oneStatus makes it 400
				for _, t := range op.Tags {
					tags[t] = true
				}
			}
		}
	}
	names := make([]string, 0, len(tags))
	for t := range tags {
		names = append(names, t)
	}
	slices.Sort(names)
	for _, n := range names {
		s.api.OpenAPI().Tags = append(s.api.OpenAPI().Tags, &huma.Tag{Name: n})
	}
}
