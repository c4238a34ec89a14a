package staunch

// PlanFileKind is PlanFile.Kind.
const PlanFileKind = "staunch.plan"

// Bounds of a plan file.
const (
	// MaxPlanFile is the most bytes that a plan file has.
	MaxPlanFile = 1 << 20
	// MaxPlanTargets is the most targets that it names.
	MaxPlanTargets = 10_000
)

// PlanFile is a stage's plan as a file: reviewed by people, and carried out as
// it stands by the server that wrote it. Everything in it is authenticated; a
// server refuses one that differs from what it wrote in anything.
type PlanFile struct {
	V int `json:"v"`
	// Kind is PlanFileKind.
	Kind string `json:"kind"`
	// Hash is the digest of the canonical form of everything but Hash and
	// Signature. It names the plan.
	Hash string `json:"hash"`
	// Server names the server that wrote it, by the key that it signs with.
	Server string `json:"server"`
	// Bundle is the hash of the configuration that it was made under.
	Bundle string `json:"bundle"`
	// Made is when it was written, MadeBy for whom, Until when it can be applied
	// at the latest.
	Made   Time   `json:"made"`
	MadeBy string `json:"made_by"`
	Until  Time   `json:"valid_until"`
	// Approval says that somebody else than MadeBy, who may approve, has to apply
	// it.
	Approval bool `json:"approval,omitempty"`
	// Subject is what is contained; Since when its compromise is taken to have
	// begun.
	Subject Ref  `json:"subject"`
	Since   Time `json:"since"`
	Tier    Tier `json:"tier"`
	// Stage is the index of the playbook's stage that this is the plan of. Those
	// after it are planned when their time comes, under the same scope.
	Playbook Playbook `json:"playbook"`
	Stage    int      `json:"stage"`
	// Scope bounds everything that may be done, later stages and child plans
	// included; ScopeHash is its digest.
	Scope     Scope  `json:"scope"`
	ScopeHash string `json:"scope_hash"`
	// Guard has the refs to which the fast plane denies what the stage says.
	Guard []Ref `json:"guard"`
	// Targets are what is done, in order.
	Targets []PlanTarget `json:"targets"`
	// Gaps lists what the platforms cannot do for this subject.
	Gaps []Gap `json:"gaps,omitempty"`
	// Signature authenticates Hash; only servers with the same key file can make
	// or check it.
	Signature string `json:"signature"`
}

// PlanTarget is one verb on one target, with the state that it was planned on.
type PlanTarget struct {
	AskedStep
	// Probe is the intent's.
	Probe Ref `json:"probe,omitzero"`
	// Before is what was there.
	Before PreState `json:"before"`
}

// PreState is a target's state as a plan expects it.
type PreState struct {
	Exists    bool `json:"exists"`
	Effective bool `json:"effective"`
	// Digest is of the state's body, which stays out of the file.
	Digest string `json:"digest"`
	// Summary says it for people.
	Summary string `json:"summary"`
	ReadAt  Time   `json:"read_at"`
}
