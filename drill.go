package staunch

// DrillPhase is where an exercise stands.
type DrillPhase string

// The phases of an exercise.
const (
	// DrillInjecting: its record is about to be taken in.
	DrillInjecting DrillPhase = "injecting"
	// DrillContaining: the case is open and its effects are waited for.
	DrillContaining DrillPhase = "containing"
	// DrillRestoring: the release is asked for and waited for.
	DrillRestoring DrillPhase = "restoring"
	// DrillPassed: contained, proven and restored, each in its time.
	DrillPassed DrillPhase = "passed"
	// DrillFailed: something of that did not happen; Failure says what.
	DrillFailed DrillPhase = "failed"
)

// Over reports whether the exercise has ended.
func (p DrillPhase) Over() bool { return p == DrillPassed || p == DrillFailed }

// Drill is one exercise on a canary: a labelled record goes the whole way, the
// canary is contained on the real platform, and put back.
type Drill struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	// Name is the exercise's name in the configuration, Canary whom it is about,
	// Source the configured source that its record is of.
	Name   string `json:"name"`
	Canary Ref    `json:"canary"`
	Source string `json:"source"`
	// By is who asked for it: a person, or "schedule".
	By    string     `json:"by"`
	Phase DrillPhase `json:"phase"`
	Began Time       `json:"began"`
	// Due is when the phase has to be over.
	Due   Time `json:"due,omitempty"`
	Ended Time `json:"ended,omitempty"`
	// Within is how long it may take to contain, RestoreWithin to put back.
	Within        Duration `json:"within"`
	RestoreWithin Duration `json:"restore_within"`
	// Record is what is taken in, as it is: one record, or several with a line break
	// between them.
	Record string `json:"record,omitempty"`
	// Decision and Containment are what it led to.
	Decision    string `json:"decision,omitempty"`
	Containment string `json:"containment,omitempty"`
	// Marks has when each step of it was reached, in order.
	Marks []DrillMark `json:"marks,omitempty"`
	// ContainMS is the time to contain, from before its record was taken in to the
	// proven effect, and RestoreMS from the release to the proven restoration, in
	// milliseconds; 0 where it did not come to that.
	ContainMS float64 `json:"time_to_contain_ms,omitempty"`
	RestoreMS float64 `json:"time_to_restore_ms,omitempty"`
	// Kept says what its release left in force, and why.
	Kept    []string `json:"kept,omitempty"`
	Failure string   `json:"failure,omitempty"`
}

// DrillMark is an instant of an exercise.
type DrillMark struct {
	Name string `json:"name"`
	At   Time   `json:"at"`
	// AfterMS is how long after its beginning, in milliseconds.
	AfterMS float64 `json:"after_ms"`
}

// The marks of an exercise, in order.
const (
	DrillMarkInjected = "injected"
	DrillMarkDecided  = "decided"
	DrillMarkOpened   = "opened"
	DrillMarkCalled   = "called"
	DrillMarkProven   = "proven"
	DrillMarkReleased = "release asked"
	DrillMarkRestored = "restored"
)

// Mark notes an instant, once.
func (d *Drill) Mark(name string, at Time) {
	for _, m := range d.Marks {
		if m.Name == name {
			return
		}
	}
	d.Marks = append(d.Marks, DrillMark{Name: name, At: at, AfterMS: float64(at-d.Began) / 1000})
}

// At returns when a mark was reached, 0 for never.
func (d Drill) At(name string) Time {
	for _, m := range d.Marks {
		if m.Name == name {
			return m.At
		}
	}
	return 0
}

// DrillID derives an exercise's id from its name and what tells it from others: the
// instant at which it was due, or a request's key.
func DrillID(name, key string) string { return "drl_" + hashID("drill", name, key)[:20] }
