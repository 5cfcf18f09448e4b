/** The handshake and the login, driven by an authentication plugin. */
import assert from 'node:assert/strict'
import { AUTH_ACTION, CONNECTION_ACTION, EVENT_ACTION, TOPIC, state } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { encode, RawClient } from '../lib/raw.mjs'
import { bounded, rejection } from '../lib/wait.mjs'

export const suite = new Suite('login')

const CONNECTION_INVALID = '0610021a020865'
const AUTH_INVALID = '0610031a020865'
const AUTH_INVALID_DATA = '0610031a020866'

suite.case('login without details', async (t) => {
  const client = t.client()
  assert.equal(await client.login(), null)
  assert.equal(client.getConnectionState(), 'OPEN')
})

suite.case('login with name and password', async (t) => {
  const client = await t.login({ password: 'secret' })
  assert.equal(client.getConnectionState(), 'OPEN')
})

suite.case('login returns the client data of the plugin', async (t) => {
  const client = t.client()
  const clientData = { favourite: 'räd', nested: { list: [1, null, 2.5] } }
  assert.deepEqual(await client.login({ username: t.name('user'), clientData }), clientData)
})

suite.case('client data null and client data absent differ on the wire', async (t) => {
  const withNull = await t.raw()
  assert.equal((await withNull.login({ username: t.name('u'), clientData: null })).data, 'null')
  const without = await t.raw()
  assert.equal((await without.login({ username: t.name('u') })).data, undefined)
})

suite.case('wrong password is refused with the default reason', async (t) => {
  const client = t.client()
  const reason = await rejection(client.login({ username: 'somebody', password: 'wrong' }))
  assert.deepEqual(reason, { reason: 'INVALID_AUTHENTICATION_DETAILS' })
  assert.equal(client.getConnectionState(), 'AWAITING_AUTHENTICATION')
})

suite.case('refusal carries the reason of the plugin', async (t) => {
  const refuse = { error: 'account locked', until: 12 }
  assert.deepEqual(await rejection(t.client().login({ username: 'somebody', refuse })), { reason: refuse })
})

suite.case('user that no plugin knows is refused', async (t) => {
  assert.deepEqual(await rejection(t.client().login({ unknown: true })), { reason: 'INVALID_AUTHENTICATION_DETAILS' })
})

suite.case('successful login after a refusal on the same connection', async (t) => {
  const client = t.client()
  await rejection(client.login({ password: 'wrong' }))
  assert.deepEqual(await client.login({ username: t.name('user'), clientData: { ok: true } }), { ok: true })
  assert.equal(client.wire.sockets.length, 1)
})

suite.case('too many refusals end the connection for good', async (t) => {
  const client = t.client()
  for (let attempt = 0; attempt < 3; attempt++) await rejection(client.login({ password: 'wrong' }))
  await client.wire.error('TOO_MANY_AUTH_ATTEMPTS')
  assert.equal(client.getConnectionState(), 'TOO_MANY_AUTH_ATTEMPTS')
  await t.until(() => client.wire.socket.readyState === 3, 'socket closed by the server')
  assert.equal(client.wire.sockets.length, 1, 'no reconnect')
})

suite.case('too many refusals on the wire: bytes and close', async (t) => {
  const raw = await t.raw()
  for (let attempt = 0; attempt < 3; attempt++) {
    raw.send({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: '{"password":"wrong"}' })
    await raw.message(TOPIC.AUTH, AUTH_ACTION.AUTH_UNSUCCESSFUL)
  }
  await raw.frame('0610031a020864')
  assert.deepEqual(raw.frames.list.slice(1), ['0610031a020804', '0610031a020804', '0610031a020804', '0610031a020864'])
  assert.equal(await raw.closed(), 1005)
})

suite.case('login long after the connection was opened', async (t) => {
  const client = t.client()
  await state(client, 'AWAITING_AUTHENTICATION')
  await client.login({ username: t.name('user') })
})

suite.case('login with a callback', async (t) => {
  const calls = t.calls('login callback')
  t.client().login({ username: t.name('user'), clientData: { a: 1 } }, calls.fn)
  assert.deepEqual(await calls.nth(1), [true, { a: 1 }])
})

suite.case('refused login with a callback', async (t) => {
  const calls = t.calls('login callback')
  t.client().login({ refuse: 'no' }, calls.fn)
  assert.deepEqual(await calls.nth(1), [false, { reason: 'no' }])
})

suite.case('several clients of one user', async (t) => {
  const username = t.name('user')
  const clients = await Promise.all([1, 2, 3].map(() => t.login({ username })))
  for (const client of clients) assert.equal(client.getConnectionState(), 'OPEN')
})

suite.case('fifty logins at once', async (t) => {
  const clients = await t.logins(50)
  await Promise.all(clients.map((client) => client.wire.ping()))
})

suite.case('connection states in order', async (t) => {
  const client = t.client()
  const states = []
  client.on('connectionStateChanged', (now) => states.push(now))
  await client.login({ username: t.name('user') })
  assert.deepEqual(states, ['AWAITING_CONNECTION', 'CHALLENGING', 'AWAITING_AUTHENTICATION', 'AUTHENTICATING', 'OPEN'])
})

suite.case('exception in the authentication plugin refuses that login only', async (t) => {
  const other = await t.login()
  const client = t.client()
  assert.deepEqual(await rejection(client.login({ crash: true })), { reason: 'INVALID_AUTHENTICATION_DETAILS' })
  await client.login({ username: t.name('user') })
  await other.wire.ping()
}, { oracle: 'an exception in an authentication plugin ends the process' })

suite.case('close ends in CLOSED and does not reconnect', async (t) => {
  const client = await t.login()
  client.close()
  await state(client, 'CLOSED')
  assert.equal(client.wire.sockets.length, 1)
})

suite.case('pause and resume log in again with the same details', async (t) => {
  const client = await t.login({ password: 'secret' })
  client.pause()
  await state(client, 'OFFLINE')
  await client.resume()
  assert.equal(client.getConnectionState(), 'OPEN')
  assert.equal(client.wire.sockets.length, 2)
})

suite.case('changed client data of a new login is an event', async (t) => {
  const client = t.client()
  const changed = t.calls('clientDataChanged')
  client.on('clientDataChanged', changed.fn)
  await client.login({ username: t.name('user'), count: true })
  assert.deepEqual(await changed.nth(1), [{ login: 1 }])
  client.wire.drop()
  assert.deepEqual(await changed.nth(2), [{ login: 2 }])
})

suite.case('refused login after a lost connection is an event', async (t) => {
  const client = t.client()
  const failure = t.calls('reauthenticationFailure')
  client.on('reauthenticationFailure', failure.fn)
  await client.login({ username: t.name('user'), once: true })
  client.wire.drop()
  assert.deepEqual(await failure.nth(1), [{ reason: { error: 'only one login' } }])
})

suite.case('client without login is closed with AUTHENTICATION_TIMEOUT', async (t) => {
  const server = await t.server({ config: { websocket: { unauthenticatedClientTimeout: 150 } } })
  const client = t.client({}, server.url)
  await client.wire.error('AUTHENTICATION_TIMEOUT')
  assert.equal(client.getConnectionState(), 'AUTHENTICATION_TIMEOUT')
  await t.until(() => client.wire.socket.readyState === 3, 'socket closed by the server')
})

suite.case('login in time is not hit by the authentication timeout', async (t) => {
  const server = await t.server({ config: { websocket: { unauthenticatedClientTimeout: 200 } } })
  const client = await t.login({}, {}, server.url)
  const idle = t.client({}, server.url)
  await idle.wire.error('AUTHENTICATION_TIMEOUT')
  await client.wire.ping()
})

suite.case('message before the challenge is answered INVALID_MESSAGE', async (t) => {
  const raw = new RawClient(t.url)
  t.onEnd(() => raw.close())
  await bounded(raw.opened, () => 'open websocket')
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name: 'x' })
  await raw.frame(CONNECTION_INVALID)
  raw.sendBytes(Buffer.from('ff', 'hex'))
  raw.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
  await raw.challenge()
  assert.deepEqual(raw.frames.list, [CONNECTION_INVALID, CONNECTION_INVALID, '0610021a020804'])
})

suite.case('message before the login is answered INVALID_MESSAGE', async (t) => {
  const raw = await t.raw()
  raw.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: ['x'], correlationId: '0' })
  raw.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.CHALLENGE })
  raw.sendBytes(Buffer.alloc(0))
  await raw.login({ username: t.name('user') })
  assert.deepEqual(raw.frames.list.slice(1, 4), [AUTH_INVALID, AUTH_INVALID, AUTH_INVALID])
})

for (const data of ['null', '"text"', '3', undefined]) {
  suite.case(`login data ${data} is refused with a close`, async (t) => {
    const raw = await t.raw()
    raw.send({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, ...(data !== undefined && { data }) })
    await raw.frame(AUTH_INVALID_DATA)
    assert.equal(await raw.closed(), 1005)
  })
}

suite.case('login data that is no JSON is refused with a close', async (t) => {
  const raw = await t.raw()
  raw.send({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: '{"username":' })
  await raw.frame(AUTH_INVALID_DATA)
  assert.equal(await raw.closed(), 1005)
}, { oracle: 'invalid JSON in login data ends the process' })

suite.case('ping is answered after the login', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
  await raw.frame('0610021a020803')
})

suite.case('frame over maxMessageSize closes with 1009', async (t) => {
  const other = await t.login()
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name: 'big', data: JSON.stringify('x'.repeat(1048576)) })
  assert.equal(await raw.closed(), 1009)
  await other.wire.ping()
})

suite.case('malformed frame after the login is answered UNKNOWN_TOPIC', async (t) => {
  const raw = await t.rawLogin()
  raw.sendBytes(Buffer.from('ffffffffff', 'hex'))
  await raw.frame('0610011a020801')
  raw.sendBytes(encode({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: '{}' }))
  await raw.ping()
  assert.equal(raw.frames.list.filter((frame) => frame === '0610011a020801').length, 2)
})

suite.case('several messages in one frame are all processed', async (t) => {
  const raw = await t.rawLogin()
  const ping = encode({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
  raw.sendBytes(Buffer.concat([ping, ping, ping]))
  for (let count = 0; count < 3; count++) await raw.message(TOPIC.CONNECTION, CONNECTION_ACTION.PONG)
}, { oracle: 'drops all but the first message of a frame' })

suite.case('text frame closes with 1003', async (t) => {
  const raw = await t.rawLogin()
  raw.sendBytes('text')
  assert.equal(await raw.closed(), 1003)
}, { oracle: 'closes without the code' })

suite.case('too many malformed frames close the connection with 1002', async (t) => {
  const other = await t.login()
  const raw = await t.rawLogin()
  for (let n = 0; n < 25; n++) raw.sendBytes(Buffer.from('ffffffffff', 'hex'))
  assert.equal(await raw.closed(), 1002)
  await other.wire.ping()
}, { oracle: 'has no limit' })

suite.case('second login request while the first is checked', async (t) => {
  const watcher = await t.login()
  const raw = await t.raw()
  const [username, gate] = [t.name('user'), t.name('gate')]
  const request = { topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: JSON.stringify({ username, hold: gate }) }
  raw.send(request)
  raw.send(request)
  await t.until(async () => {
    await t.login({ release: gate })
    return raw.messages.list.some((message) => message.action === AUTH_ACTION.AUTH_SUCCESSFUL)
  }, 'login')
  await raw.ping()
  assert.equal(raw.frames.list.filter((frame) => frame === '0610031a020803').length, 1)
  await raw.close()
  await t.until(async () => (await watcher.presence.getAll([username]))[username] === false, 'nobody is left')
}, { oracle: 'checks both and counts the user twice' })

suite.case('connection that breaks while its login is checked leaves no user behind', async (t) => {
  const watcher = await t.login()
  const raw = await t.raw()
  const [username, gate] = [t.name('user'), t.name('gate')]
  raw.send({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: JSON.stringify({ username, hold: gate }) })
  await watcher.wire.ping()
  await raw.close()
  await watcher.wire.ping()
  await t.login({ release: gate })
  await watcher.wire.ping()
  await t.until(async () => (await watcher.presence.getAll([username]))[username] === false, 'nobody is left')
}, { oracle: 'registers the user of a closed connection' })

suite.case('heartbeats of the client are answered', async (t) => {
  const client = await t.login({}, { heartbeatInterval: 150 })
  const pongs = () => client.wire.messages(TOPIC.CONNECTION, CONNECTION_ACTION.PONG).length
  await t.until(() => pongs() >= 5, 'five answers')
  assert.equal(client.wire.sockets.length, 1)
})

suite.case('silent connection is cut off, a pinging one is not', async (t) => {
  const server = await t.server({ config: { websocket: { heartbeatInterval: 150 } } })
  const watcher = await t.login({}, { heartbeatInterval: 30 }, server.url)
  const silent = await t.login({}, {}, server.url)
  const calls = t.calls('presence')
  watcher.presence.subscribe(silent.user, calls.fn)
  silent.wire.allowConnectionErrors()
  silent.options.maxReconnectAttempts = 0
  assert.deepEqual(await calls.nth(1), [silent.user, false])
  assert.equal(watcher.wire.sockets.length, 1)
})

suite.case('health check on the same port', async (t) => {
  const base = t.url.replace('ws://', 'http://')
  const answer = await fetch(`${base}/health-check`)
  await answer.arrayBuffer()
  assert.equal(answer.status, 200)
  const unknown = await fetch(`${base}/no-such-page`)
  await unknown.arrayBuffer()
  assert.equal(unknown.status, 404)
})
