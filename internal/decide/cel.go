package decide

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/staunch-project/staunch"
)

// Bounds of an expression, so that no policy can slow decisions down: how deep
// and large it may be, and what its evaluation may cost in CEL's units.
const (
	maxWhenDepth = 32
	maxWhenNodes = 512
	maxWhenCost  = 5_000
	maxRegexSize = 200
)

// SuspicionFacts is what policy sees of a suspicion.
type SuspicionFacts struct {
	Confidence float64  `json:"confidence" cel:"confidence"`
	Ceiling    string   `json:"ceiling" cel:"ceiling"`
	Signals    int      `json:"signals" cel:"signals"`
	Sessions   int      `json:"sessions" cel:"sessions"`
	Rules      []string `json:"rules" cel:"rules"`
	Sources    []string `json:"sources" cel:"sources"`
	Techniques []string `json:"techniques" cel:"techniques"`
	Subject    string   `json:"subject" cel:"subject"`
}

// IdentityFacts is what policy sees of an identity.
type IdentityFacts struct {
	Name        string `json:"name" cel:"name"`
	Kind        string `json:"kind" cel:"kind"`
	Owner       string `json:"owner,omitempty" cel:"owner"`
	Purpose     string `json:"purpose,omitempty" cel:"purpose"`
	Environment string `json:"environment,omitempty" cel:"environment"`
	Tier        int    `json:"tier,omitempty" cel:"tier"`
	Tolerance   string `json:"tolerance" cel:"tolerance"`
	Shared      bool   `json:"shared,omitempty" cel:"shared"`
	Protected   bool   `json:"protected,omitempty" cel:"protected"`
	Managed     bool   `json:"managed" cel:"managed"`
	Accounts    int    `json:"accounts,omitempty" cel:"accounts"`
}

// ContainmentFacts is what policy sees of the case that is open for the
// subject, if there is one.
type ContainmentFacts struct {
	Open  bool   `json:"open" cel:"open"`
	Tier  string `json:"tier,omitempty" cel:"tier"`
	Phase string `json:"phase,omitempty" cel:"phase"`
	// Scope is the kind of what it contains.
	Scope string `json:"scope,omitempty" cel:"scope"`
}

// EnvironmentFacts is what policy sees of where it decides. It has no clock.
type EnvironmentFacts struct {
	// Name is the identity's environment.
	Name     string `json:"name,omitempty" cel:"name"`
	Realm    string `json:"realm,omitempty" cel:"realm"`
	Platform string `json:"platform,omitempty" cel:"platform"`
	// Mode is the engine's mode.
	Mode string `json:"mode" cel:"mode"`
}

// whenInput is the closed struct that expressions see.
type whenInput struct {
	signal      *SignalFacts
	identity    *IdentityFacts
	containment *ContainmentFacts
	suspicion   SuspicionFacts
	environment EnvironmentFacts
}

// ResolveName implements cel.Activation.
func (w *whenInput) ResolveName(name string) (any, bool) {
	switch name {
	case "signal":
		return w.signal, true
	case "suspicion":
		return &w.suspicion, true
	case "identity":
		return w.identity, true
	case "containment":
		return w.containment, true
	case "environment":
		return &w.environment, true
	default:
		return nil, false
	}
}

// Parent implements cel.Activation.
func (w *whenInput) Parent() cel.Activation { return nil }

// celEnv compiles expressions.
type celEnv struct{ env *cel.Env }

func newEnv() (*celEnv, error) {
	env, err := cel.NewEnv(
		// has, all and exists; map and filter build lists, which nothing needs.
		cel.ClearMacros(),
		cel.Macros(cel.HasMacro, cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro),
		cel.CrossTypeNumericComparisons(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ParserRecursionLimit(maxWhenDepth),
		cel.ParserExpressionSizeLimit(MaxWhen),
		cel.ExpressionNodeLimit(maxWhenNodes),
		cel.RegexProgramSizeLimit(maxRegexSize),
		ext.NativeTypes(
			cel.NativeTypeFor[SignalFacts](ext.ParseStructTags(true)),
			cel.NativeTypeFor[SuspicionFacts](ext.ParseStructTags(true)),
			cel.NativeTypeFor[IdentityFacts](ext.ParseStructTags(true)),
			cel.NativeTypeFor[ContainmentFacts](ext.ParseStructTags(true)),
			cel.NativeTypeFor[EnvironmentFacts](ext.ParseStructTags(true)),
		),
		cel.Variable("signal", cel.ObjectType("decide.SignalFacts")),
		cel.Variable("suspicion", cel.ObjectType("decide.SuspicionFacts")),
		cel.Variable("identity", cel.ObjectType("decide.IdentityFacts")),
		cel.Variable("containment", cel.ObjectType("decide.ContainmentFacts")),
		cel.Variable("environment", cel.ObjectType("decide.EnvironmentFacts")),
	)
	if err != nil {
		return nil, err
	}
	return &celEnv{env: env}, nil
}

// sizes tells the estimator how large what expressions see can be.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	switch n.Type().Kind() {
	case types.ListKind:
		return &cost.SizeEstimate{Max: maxList}
	case types.StringKind:
		return &cost.SizeEstimate{Max: 2 * staunch.MaxValueLen}
	default:
		return nil
	}
}

// EstimateCallCost implements cost.Estimator; functions cost what CEL says.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// issue is one thing that is wrong with an expression; line counts from 1.
type issue struct {
	line int
	text string
}

// when is a compiled expression.
type when struct{ prog cel.Program }

func (e *celEnv) compile(src string) (*when, []issue) {
	if len(src) > MaxWhen {
		return nil, []issue{{1, fmt.Sprintf("%d bytes long, at most %d", len(src), MaxWhen)}}
	}
	ast, iss := e.env.Compile(src)
	if iss.Err() != nil {
		var out []issue
		for _, err := range iss.Errors() {
			out = append(out, issue{max(err.Location.Line(), 1), fmt.Sprintf("column %d: %s", err.Location.Column()+1, err.Message)})
		}
		if len(out) == 0 {
			out = append(out, issue{1, iss.Err().Error()})
		}
		return nil, out
	}
	if ast.OutputType() != types.BoolType {
		return nil, []issue{{1, fmt.Sprintf("gives %s and has to give a bool", ast.OutputType())}}
	}
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	// Counting the cost takes longer than most expressions do, so only those
	// that might exceed the budget are counted.
	if est, err := e.env.EstimateCost(ast, sizes{}); err != nil || est.Max > maxWhenCost {
		opts = append(opts, cel.CostLimit(maxWhenCost))
	}
	prog, err := e.env.Program(ast, opts...)
	if err != nil {
		return nil, []issue{{1, err.Error()}}
	}
	return &when{prog: prog}, nil
}

// eval returns whether the expression holds. An error says that it cannot be
// told, which is as good as no.
func (w *when) eval(in *whenInput) (bool, error) {
	v, _, err := w.prog.Eval(in)
	if err != nil {
		return false, err
	}
	b, ok := v.Value().(bool)
	if !ok {
		return false, errors.New("gave no bool")
	}
	return b, nil
}
