/** Authentication `jwt`, which deepstream.io does not have. */
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

const SECRET = '0123456789abcdef0123456789abcdef'

export const suite = new Suite('tokens', {
  auth: [{
    type: 'jwt',
    options: { algorithms: ['HS256'], secret: SECRET, clockSkew: 0, clientDataClaims: ['level'] }
  }]
})

const oracle = { oracle: 'knows no tokens' }
const part = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

/** A token that is valid for so many seconds. */
function token (seconds, claims = {}, secret = SECRET) {
  const exp = Date.now() / 1000 + seconds
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'peter', exp, ...claims })}`
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
}

suite.case('login with a token', async (t) => {
  const client = t.client()
  assert.deepEqual(await client.login({ token: token(60, { level: 3 }) }), { level: 3 })
  assert.ok((await client.presence.getAll()).length >= 0)
}, oracle)

suite.case('refused tokens', async (t) => {
  const reason = async (data) => (await rejection(t.client().login(data))).reason.error
  assert.equal(await reason({ token: token(-60) }), 'token expired')
  assert.equal(await reason({ token: token(60, {}, 'another secret') }), 'invalid token')
  assert.equal(await reason({ token: `${part({ alg: 'none' })}.${part({ sub: 'peter' })}.` }), 'invalid token')
  assert.equal(await reason({}), 'missing authentication parameter: token')
}, oracle)

suite.case('the client goes on with its newest token when the first one ends', async (t) => {
  const client = t.client()
  const states = []
  client.on('connectionStateChanged', (state) => states.push(state))
  await client.login({ token: token(1.5, { level: 1 }) })
  const events = t.calls('event')
  client.event.subscribe(t.name('event'), events.fn)
  // On an open connection the client only keeps the data for its next login.
  const renewed = client.login({ token: token(60, { level: 2 }) })
  assert.deepEqual(await renewed, { level: 2 })
  assert.ok(states.includes('RECONNECTING'), states.join())
  assert.equal(client.getConnectionState(), 'OPEN')
  assert.equal(client.wire.sockets.length, 2)
}, oracle)

suite.case('without a newer token the client is asked to log in again', async (t) => {
  const client = t.client()
  await client.login({ token: token(1) })
  await t.until(() => client.getConnectionState() === 'AWAITING_AUTHENTICATION', 'the token has ended')
  assert.equal(await client.login({ token: token(60) }), null)
}, oracle)
