/** Client 2.3.4: connecting, logging in, heartbeats. */
import assert from 'node:assert/strict'
import { state } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { V3Context } from '../lib/v3.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('v3 login', {}, { transports: ['text'], Case: V3Context })

suite.case('states of a login', async (t) => {
  const client = await t.login()
  assert.deepEqual(client.wire.states.list, ['AWAITING_CONNECTION', 'AWAITING_AUTHENTICATION', 'AUTHENTICATING', 'OPEN'])
  assert.deepEqual(client.wire.received.list.slice(0, 2), ['C|A', 'C|PI'])
  assert.equal(client.loginData, null)
})

for (const data of [null, 'text', '', 0, 5, true, false, [1], {}, { fav: 'red' }]) {
  suite.case(`client data ${JSON.stringify(data)}`, async (t) => {
    assert.deepEqual((await t.login({ clientData: data })).loginData, data)
  })

  suite.case(`refusal with ${JSON.stringify(data)}, then a login`, async (t) => {
    const client = t.client()
    assert.deepEqual(await rejection(client.loginAsync({ refuse: data })), data)
    await client.loginAsync({ username: t.name('user') })
    assert.equal(client.getConnectionState(), 'OPEN')
  })
}

suite.case('refusal without a reason', async (t) => {
  const client = t.client()
  assert.equal(await rejection(client.loginAsync({ password: 'wrong' })), undefined)
})

suite.case('login before the connection is there, with a callback', async (t) => {
  const client = t.client()
  const calls = t.calls('login')
  client.login({ username: t.name('user'), clientData: { a: 1 } }, calls.fn)
  assert.deepEqual(await calls.nth(1), [true, { a: 1 }])
})

suite.case('login without data', async (t) => {
  const client = t.client()
  const calls = t.calls('login')
  client.login(calls.fn)
  assert.deepEqual(await calls.nth(1), [true, null])
})

suite.case('too many attempts: closed for good', async (t) => {
  const client = t.client()
  for (let i = 0; i < 2; i++) await rejection(client.loginAsync({ refuse: 'no' }))
  const calls = t.calls('login')
  client.login({ refuse: 'no' }, calls.fn)
  assert.deepEqual(await calls.nth(1), [false, 'no'])
  await client.wire.line('A|E|TOO_MANY_AUTH_ATTEMPTS')
  await state(client, 'CLOSED')
  assert.equal(client.wire.sockets.length, 1)
  client.login({}, calls.fn)
  await client.wire.error('IS_CLOSED')
})

suite.case('login data that are no object: closed for good', async (t) => {
  const client = t.client()
  const calls = t.calls('login')
  client.login(new Date(), calls.fn)
  assert.deepEqual(await calls.nth(1), [false, 'invalid authentication message'])
  await state(client, 'CLOSED')
  assert.equal(client.wire.sockets.length, 1)
})

suite.case('no login in time: closed for good', async (t) => {
  const server = await t.server({ config: { websocket: { unauthenticatedClientTimeout: 150 } } })
  const client = t.client({}, server.url)
  await client.wire.error('CONNECTION_AUTHENTICATION_TIMEOUT')
  await state(client, 'CLOSED')
  assert.equal(client.wire.sockets.length, 1)
})

suite.case('what was asked for before the login comes in one frame', async (t) => {
  const client = t.client()
  const name = t.name('early')
  const calls = t.calls(name)
  client.event.subscribe(name, calls.fn)
  const record = client.record.getRecord(name)
  record.set({ a: 1 })
  client.presence.subscribe(calls.fn)
  client.rpc.provide(name, (data, response) => response.send(data))
  await state(client, 'AWAITING_AUTHENTICATION')
  await client.loginAsync({ username: t.name('user') })
  await t.ready(record)
  await client.wire.line(`P|A|S|${name}`)
  assert.ok(client.wire.frames.list.some((frame) => frame.includes(`E|S|${name}`) && frame.includes(`R|CR|${name}`)))
  const other = await t.login()
  await other.wire.ping()
  assert.deepEqual(await other.record.snapshot(name), { a: 1 })
  assert.equal(await other.rpc.make(name, 'x'), 'x')
})

suite.case('pings of the server keep the connection', async (t) => {
  const server = await t.server({ config: { websocket: { heartbeatInterval: 40 } } })
  const client = await t.login({}, { heartbeatInterval: 1000 }, server.url)
  const pings = () => client.wire.received.list.filter((line) => line === 'C|PI').length
  await t.until(() => pings() >= 8, 'eight pings')
  assert.equal(client.wire.sockets.length, 1)
  assert.ok(client.wire.sent.list.filter((line) => line === 'C|PO').length >= 7)
})

suite.case('login after a close', async (t) => {
  const client = await t.login()
  const closed = new Promise((resolve) => client.wire.sockets[0].once('close', resolve))
  client.close()
  await closed
  await client.loginAsync({ username: client.user })
  assert.equal(client.getConnectionState(), 'OPEN')
})
