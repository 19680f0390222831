// An authorization server (oidc-provider) that lets everybody in at once: provider.mjs ISSUER SECRET.
// It prints its port. Refresh tokens rotate: a used one ends the grant.
import Provider from 'oidc-provider'
import { webcrypto } from 'node:crypto'
import { createServer } from 'node:http'

// Debian 12 has Node 18, which knows neither.
globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);

const [issuer, secret] = process.argv.slice(2)
const app = (client_id, token_endpoint_auth_method) => ({
  client_id, client_secret: secret, token_endpoint_auth_method,
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  response_types: ['code'], redirect_uris: ['https://app.example/cb'],
})
const provider = new Provider(issuer, {
  clients: [app('basic-app', 'client_secret_basic'), app('post-app', 'client_secret_post')],
  features: { devInteractions: { enabled: false }, clientCredentials: { enabled: true }, revocation: { enabled: true } },
  pkce: { required: () => false },
  rotateRefreshToken: true,
  issueRefreshToken: async () => true,
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  interactions: { url: (ctx, i) => `/interaction/${i.uid}` },
  cookies: { keys: ['a-key-of-this-test'] },
})
provider.proxy = true
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next()
  const { params } = await provider.interactionDetails(ctx.req, ctx.res)
  const grant = new provider.Grant({ accountId: 'someone', clientId: params.client_id })
  grant.addOIDCScope(params.scope)
  await provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: 'someone' }, consent: { grantId: await grant.save() } })
})
const server = createServer(provider.callback())
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
