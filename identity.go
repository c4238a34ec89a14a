package staunch

// IdentityKind is what sort of actor an identity is.
type IdentityKind string

// The kinds of identities.
const (
	IdentityHuman    IdentityKind = "human"
	IdentityService  IdentityKind = "service"
	IdentityWorkload IdentityKind = "workload"
	IdentityAgent    IdentityKind = "agent"
	IdentityUnknown  IdentityKind = "unknown"
)

// Valid reports whether k is one of the kinds.
func (k IdentityKind) Valid() bool {
	switch k {
	case IdentityHuman, IdentityService, IdentityWorkload, IdentityAgent, IdentityUnknown:
		return true
	}
	return false
}

// Tolerance is how much interruption an identity's work bears.
type Tolerance string

// The tolerances.
const (
	// ToleranceNormal: the policy's tiers apply at once.
	ToleranceNormal Tolerance = "normal"
	// ToleranceStaged: restrict, isolate, a verification window, then revoke.
	ToleranceStaged Tolerance = "staged"
	// ToleranceNever: watch, tell, and only what a person approves.
	ToleranceNever Tolerance = "never"
)

// Valid reports whether t is one of the tolerances.
func (t Tolerance) Valid() bool {
	return t == ToleranceNormal || t == ToleranceStaged || t == ToleranceNever
}

// Identity is the canonical who behind accounts on any number of realms.
type Identity struct {
	V           int          `json:"v"`
	Name        string       `json:"name"`
	Kind        IdentityKind `json:"kind"`
	Owner       string       `json:"owner,omitempty"`
	Purpose     string       `json:"purpose,omitempty"`
	Environment string       `json:"environment,omitempty"`
	// Tier is how much depends on it: 1 (most) to 4, 0 when not said.
	Tier      int       `json:"tier,omitempty"`
	Tolerance Tolerance `json:"tolerance"`
	// Shared says that several workloads use it.
	Shared bool `json:"shared,omitempty"`
	// Protected says that no mutating call may ever touch it (invariant I5).
	Protected bool `json:"protected,omitempty"`
	// Managed says that it was declared or imported, not merely seen.
	Managed bool `json:"managed"`
	// Accounts has the refs that are known to be this identity's.
	Accounts []Ref `json:"accounts,omitempty"`
}

// Resolution is what the inventory knows of a ref as of one instant.
type Resolution struct {
	// Ref is what was asked about.
	Ref Ref `json:"ref"`
	// Names has every ref known to name the same entity, Ref included, sorted.
	Names []Ref `json:"names"`
	// Up has what the entity belongs to: its credential, account, identity, and
	// their other names, narrowest first.
	Up []Ref `json:"up,omitempty"`
	// Identity is the canonical who; Kind unknown and Managed false where none
	// is known.
	Identity Identity `json:"identity"`
	// AsOf is the instant that was asked about.
	AsOf Time `json:"as_of"`
}
