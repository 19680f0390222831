// Signs tokens as agents do, with what the environment holds.
import { GoogleAuth, JWT } from 'google-auth-library'
import jsonwebtoken from 'jsonwebtoken'

const send = async (name, token) => {
  const r = await fetch('https://api.jwt.example/' + name, { headers: { Authorization: 'Bearer ' + token } })
  console.log('jsonwebtoken', name, r.status, r.headers.get('x-superserve-error') ?? await r.text())
}
for (const algorithm of ['HS256', 'HS512']) await send(algorithm, jsonwebtoken.sign({ sub: 'me' }, process.env.JWT_SECRET, { algorithm }))
await send('RS256', jsonwebtoken.sign({ sub: 'me' }, process.env.RSA_KEY, { algorithm: 'RS256' }))
await send('ES256', jsonwebtoken.sign({ sub: 'me' }, process.env.EC_KEY, { algorithm: 'ES256' }))

const credentials = JSON.parse(process.env.GCP_SERVICE_ACCOUNT_KEY)
const auth = new GoogleAuth({ credentials, scopes: ['https://www.googleapis.com/auth/devstorage.read_only'] })
const client = await auth.getClient()
for (let i = 0; i < 2; i++) {
  const r = await client.request({ url: 'https://storage.googleapis.com/b', responseType: 'text' })
  console.log('google-auth-library', r.status, String(r.data).split('Bearer').length - 1)
}
const own = new JWT({ email: credentials.client_email, key: credentials.private_key })
const headers = await own.getRequestHeaders('https://pubsub.googleapis.com/')
console.log('google-auth-library self-signed', (await fetch('https://pubsub.googleapis.com/v1', { headers })).status)
const ident = await new GoogleAuth({ credentials }).getIdTokenClient('https://run.googleapis.com')
console.log('google-auth-library id token', (await ident.request({ url: 'https://run.googleapis.com/', responseType: 'text' })).status)
console.log('seen', JSON.stringify(await client.getRequestHeaders()), (await client.getAccessToken()).token)
