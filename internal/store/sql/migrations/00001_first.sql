-- The first schema. See migrate.go for the words in braces. Every row keeps the
-- columns that queries need and one body of JSON; times are UTC microseconds.

CREATE TABLE events (
    id   {text} NOT NULL PRIMARY KEY,
    at   BIGINT NOT NULL,
    body {blob} NOT NULL
);

CREATE TABLE event_actors (
    ref   {text} NOT NULL,
    at    BIGINT NOT NULL,
    event {text} NOT NULL,
    PRIMARY KEY (ref, at, event)
) {clustered};

CREATE TABLE facts (
    id      {text} NOT NULL PRIMARY KEY,
    subject {text} NOT NULL,
    at      BIGINT NOT NULL,
    body    {blob} NOT NULL
);
CREATE INDEX facts_about ON facts (subject, at, id);

CREATE TABLE links (
    fact     {text} NOT NULL,
    rel      {text} NOT NULL,
    from_ref {text} NOT NULL,
    to_ref   {text} NOT NULL,
    since    BIGINT NOT NULL,
    body     {blob} NOT NULL,
    PRIMARY KEY (fact, rel)
);
CREATE INDEX links_from ON links (from_ref, rel, since, fact);
CREATE INDEX links_to ON links (to_ref, rel, since, fact);

CREATE TABLE identities (
    name {text} NOT NULL PRIMARY KEY,
    body {blob} NOT NULL
);

CREATE TABLE identity_accounts (
    ref      {text} NOT NULL PRIMARY KEY,
    identity {text} NOT NULL
) {clustered};
CREATE INDEX identity_accounts_of ON identity_accounts (identity);

CREATE TABLE signals (
    id      {text} NOT NULL PRIMARY KEY,
    accused {text} NOT NULL,
    at      BIGINT NOT NULL,
    body    {blob} NOT NULL
);
CREATE INDEX signals_accusing ON signals (accused, at, id);
CREATE INDEX signals_by_time ON signals (at, id);

CREATE TABLE decisions (
    id   {text} NOT NULL PRIMARY KEY,
    at   BIGINT NOT NULL,
    body {blob} NOT NULL
);
CREATE INDEX decisions_by_time ON decisions (at, id);

CREATE TABLE containments (
    id         {text} NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    unreleased BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body       {blob} NOT NULL
);
CREATE INDEX containments_by_time ON containments (at, id);
CREATE INDEX containments_unreleased ON containments (at, id) WHERE unreleased = 1;

-- The refs of the cases that are not released.
CREATE TABLE containment_refs (
    ref         {text} NOT NULL,
    containment {text} NOT NULL,
    PRIMARY KEY (ref, containment)
) {clustered};
CREATE INDEX containment_refs_of ON containment_refs (containment);

CREATE TABLE plans (
    id          {text} NOT NULL PRIMARY KEY,
    containment {text} NOT NULL,
    stage       BIGINT NOT NULL,
    child       BIGINT NOT NULL,
    generation  BIGINT NOT NULL,
    body        {blob} NOT NULL
);
CREATE INDEX plans_of ON plans (containment, stage, child, generation);

CREATE TABLE steps (
    id          {text} NOT NULL PRIMARY KEY,
    plan        {text} NOT NULL,
    containment {text} NOT NULL,
    seq         BIGINT NOT NULL,
    generation  BIGINT NOT NULL,
    body        {blob} NOT NULL
);
CREATE INDEX steps_of ON steps (containment);

CREATE TABLE holds (
    id     {text} NOT NULL PRIMARY KEY,
    seq    BIGINT NOT NULL,
    plane  {text} NOT NULL,
    target {text} NOT NULL,
    active BIGINT NOT NULL,
    body   {blob} NOT NULL
);
CREATE UNIQUE INDEX holds_active ON holds (target, plane) WHERE active = 1;
CREATE INDEX holds_by_seq ON holds (plane, seq);
{postgres} CREATE SEQUENCE hold_seq;
{postgres} CREATE TABLE hold_turn (one BIGINT PRIMARY KEY);

CREATE TABLE hold_claims (
    containment {text} NOT NULL,
    hold        {text} NOT NULL,
    PRIMARY KEY (containment, hold)
) {clustered};

CREATE TABLE timers (
    id    {text} NOT NULL PRIMARY KEY,
    due   BIGINT NOT NULL,
    kind  {text} NOT NULL,
    about {text} NOT NULL
) {clustered};
CREATE INDEX timers_by_due ON timers (due, id);

CREATE TABLE cursors (
    name  {text} NOT NULL PRIMARY KEY,
    value {blob} NOT NULL
);

CREATE TABLE caps (
    name {text} NOT NULL PRIMARY KEY,
    used BIGINT NOT NULL,
    lim  BIGINT NOT NULL
) {clustered};

CREATE TABLE breakers (
    scope {text} NOT NULL PRIMARY KEY,
    body  {blob} NOT NULL
);

CREATE TABLE tokens (
    id   {text} NOT NULL PRIMARY KEY,
    hash {text} NOT NULL,
    body {blob} NOT NULL
);
CREATE UNIQUE INDEX tokens_by_hash ON tokens (hash);

CREATE TABLE bundles (
    hash {text} NOT NULL PRIMARY KEY,
    made BIGINT NOT NULL,
    body {blob} NOT NULL
);

CREATE TABLE active_bundle (
    one  BIGINT NOT NULL PRIMARY KEY,
    hash {text} NOT NULL
);

CREATE TABLE sealed (
    id   {text} NOT NULL PRIMARY KEY,
    blob {blob} NOT NULL
);

CREATE TABLE secrets (
    ref   {text} NOT NULL PRIMARY KEY,
    until BIGINT NOT NULL,
    blob  {blob} NOT NULL
);

CREATE TABLE records (
    lane  {text} NOT NULL,
    seq   BIGINT NOT NULL,
    v     BIGINT NOT NULL,
    at    BIGINT NOT NULL,
    kind  {text} NOT NULL,
    actor {text} NOT NULL,
    about {text} NOT NULL,
    body  {blob},
    prev  {text} NOT NULL,
    hash  {text} NOT NULL,
    PRIMARY KEY (lane, seq)
) {clustered};
CREATE INDEX records_about ON records (about, at, lane, seq);

CREATE TABLE lanes (
    lane {text} NOT NULL PRIMARY KEY,
    seq  BIGINT NOT NULL,
    hash {text} NOT NULL,
    at   BIGINT NOT NULL
) {clustered};

CREATE TABLE notices (
    id   {text} NOT NULL PRIMARY KEY,
    due  BIGINT NOT NULL,
    done BIGINT NOT NULL,
    body {blob} NOT NULL
);
CREATE INDEX notices_waiting ON notices (due, id) WHERE done = 0;

CREATE TABLE parked (
    id   {text} NOT NULL PRIMARY KEY,
    body {blob} NOT NULL,
    raw  {blob} NOT NULL
);

CREATE TABLE leases (
    name       {text} NOT NULL PRIMARY KEY,
    owner      {text} NOT NULL,
    generation BIGINT NOT NULL,
    until      BIGINT NOT NULL
);

-- What tells whether a commit whose answer was lost has happened; see
-- postgres.go.
{postgres} CREATE TABLE commits (slot TEXT COLLATE "C" PRIMARY KEY, marker TEXT NOT NULL, at BIGINT NOT NULL) WITH (fillfactor = 50);
