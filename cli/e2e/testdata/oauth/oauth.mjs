// Gets and uses tokens as Node programs do, with the client secret that the environment holds.
import * as client from 'openid-client'
import simple from 'simple-oauth2'
import { webcrypto } from 'node:crypto'

globalThis.crypto ??= webcrypto // Debian 12 has Node 18, which knows neither this nor getSetCookie

const secret = process.env.OAUTH_CLIENT_SECRET
const follow = async url => { // the provider's redirects, until they lead back to the application
  const jar = new Map()
  for (url = new URL(url); url.host !== 'app.example';) {
    const r = await fetch(url, { redirect: 'manual', headers: { cookie: [...jar].map(([k, v]) => `${k}=${v}`).join('; ') } })
    const set = r.headers.getSetCookie?.() ?? (r.headers.get('set-cookie') ?? '').split(/,(?=\s*[\w.-]+=)/).filter(Boolean)
    for (const c of set.map(c => c.trim())) { const [, k, v] = c.match(/^([^=]+)=([^;]*)/); v ? jar.set(k, v) : jar.delete(k) }
    if (!r.headers.get('location')) throw new Error(`${url}: ${r.status} ${await r.text()}`)
    url = new URL(r.headers.get('location'), url)
  }
  return url
}
const show = async (name, tokens) => {
  const r = await fetch('https://api.example/me', { headers: { Authorization: `Bearer ${tokens.access_token}` } })
  console.log(name, r.status, Object.keys(tokens).filter(k => k.endsWith('_token')).sort().join())
  console.log('seen', JSON.stringify(tokens))
}
const config = await client.discovery(new URL('https://auth.example'), 'basic-app', secret, client.ClientSecretBasic(secret))
// Without PKCE, which the server cannot check on Node 18 (crypto.hash).
const url = client.buildAuthorizationUrl(config, { redirect_uri: 'https://app.example/cb', scope: 'openid' })
let tokens = await client.authorizationCodeGrant(config, await follow(url))
await show('openid-client code', tokens)
console.log('userinfo', (await client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub)).sub)
tokens = await client.refreshTokenGrant(config, tokens.refresh_token)
await show('openid-client refresh', tokens)
await client.tokenRevocation(config, tokens.refresh_token)
await show('openid-client client', await client.clientCredentialsGrant(config))

const oauth = new simple.AuthorizationCode({ client: { id: 'post-app', secret }, auth: { tokenHost: 'https://auth.example', tokenPath: '/token', authorizePath: '/auth' }, options: { authorizationMethod: 'body' } })
const back = await follow(oauth.authorizeURL({ redirect_uri: 'https://app.example/cb', scope: 'openid' }))
let access = await oauth.getToken({ code: back.searchParams.get('code'), redirect_uri: 'https://app.example/cb' })
await show('simple-oauth2 code', access.token)
access = await access.refresh()
await show('simple-oauth2 refresh', access.token)
