// An OpenID provider for tests: node server.mjs CONFIG.json
//
// It listens on a free port of the loopback address, prints one JSON line with
// its issuer when it is ready, and keeps everything in memory. Any account
// name with any password may sign in. CONFIG.json:
//
//   clients          client metadata, as OpenID Connect registration names it
//   scopes           scopes that clients may ask for beside openid and offline_access
//   accessTokenTTL   seconds; refreshTokenTTL likewise
//   stepHeader       the request header whose value is logged as step
//   ownTokensOnly    true: a client may revoke and introspect its own tokens only
//
// Everything that the provider is asked at its token, revocation and
// introspection endpoints goes to standard output as one JSON line each, so
// that a test can join what it did with what arrived.
import crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { Provider } from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const say = (o) => process.stdout.write(`${JSON.stringify(o)}\n`);

// The library's own memory holds a thousand entries and silently drops the
// rest, which would look like a revocation. This one refuses instead.
const LIMIT = 500_000;
const entries = new Map(); // "Model:id" -> { payload, expires }
const grants = new Map(); // grant id -> Set of "Model:id"
const alias = new Map(); // "uid:…" or "code:…" -> id

class Memory {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload, expiresIn) {
    if (entries.size >= LIMIT) {
      const now = Date.now();
      for (const [k, e] of entries) if (e.expires <= now) entries.delete(k);
      if (entries.size >= LIMIT) throw new Error(`more than ${LIMIT} entries`);
    }
    const key = this.key(id);
    entries.set(key, { payload, expires: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    if (payload.uid) alias.set(`${this.model}:uid:${payload.uid}`, id);
    if (payload.userCode) alias.set(`${this.model}:code:${payload.userCode}`, id);
    if (payload.grantId && this.model !== 'Session' && this.model !== 'Grant') {
      if (!grants.has(payload.grantId)) grants.set(payload.grantId, new Set());
      grants.get(payload.grantId).add(key);
    }
  }

  async find(id) {
    const key = this.key(id);
    const e = entries.get(key);
    if (e && e.expires <= Date.now()) {
      entries.delete(key);
      return undefined;
    }
    return e?.payload;
  }

  async findByUid(uid) { return this.find(alias.get(`${this.model}:uid:${uid}`)); }

  async findByUserCode(code) { return this.find(alias.get(`${this.model}:code:${code}`)); }

  async consume(id) {
    const e = entries.get(this.key(id));
    if (e) e.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) { entries.delete(this.key(id)); }

  async revokeByGrantId(grantId) {
    for (const key of grants.get(grantId) ?? []) entries.delete(key);
    grants.delete(grantId);
  }
}

const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
const jwk = { ...privateKey.export({ format: 'jwk' }), kid: 'test', use: 'sig', alg: 'RS256' };
const allowed = async (_ctx, client, token) => !config.ownTokensOnly || token.clientId === client.clientId;

let callback;
const server = http.createServer((req, res) => callback(req, res));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    adapter: Memory,
    jwks: { keys: [jwk] },
    clients: config.clients,
    scopes: ['openid', 'offline_access', ...(config.scopes ?? [])],
    cookies: { keys: [crypto.randomBytes(16).toString('hex')] },
    pkce: { required: () => false },
    ttl: {
      AccessToken: config.accessTokenTTL,
      ClientCredentials: config.accessTokenTTL,
      RefreshToken: config.refreshTokenTTL,
      IdToken: 3600,
      Interaction: 3600,
      Session: 86400,
      Grant: 86400,
    },
    features: {
      clientCredentials: { enabled: true },
      revocation: { enabled: true, allowedPolicy: allowed },
      introspection: { enabled: true, allowedPolicy: allowed },
      devInteractions: { enabled: true },
    },
    issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  });
  provider.on('server_error', (ctx, err) => say({ error: String(err), path: ctx.path }));
  const logged = new Set(['/token', '/token/revocation', '/token/introspection']);
  provider.use(async (ctx, next) => {
    await next();
    if (!logged.has(ctx.path)) return;
    const shown = ctx.oidc?.params?.token;
    say({
      event: ctx.path.slice(1),
      status: ctx.status,
      client: ctx.oidc?.client?.clientId,
      account: ctx.oidc?.session?.accountId,
      step: config.stepHeader ? ctx.get(config.stepHeader) || undefined : undefined,
      active: ctx.path === '/token/introspection' ? ctx.body?.active : undefined,
      token_sha256: shown ? crypto.createHash('sha256').update(shown).digest('hex') : undefined,
      at_us: Math.round((performance.timeOrigin + performance.now()) * 1000),
    });
  });
  callback = provider.callback();
  say({ event: 'ready', issuer });
});
for (const sig of ['SIGTERM', 'SIGINT']) process.on(sig, () => process.exit(0));
