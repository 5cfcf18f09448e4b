/** Client 2.3.4: remote procedure calls, also with clients of version 7. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { V3Context, answer } from '../lib/v3.mjs'
import { bounded, rejection } from '../lib/wait.mjs'

export const suite = new Suite('v3 rpc', { rpc: { ackTimeout: 200, responseTimeout: 400 } }, { transports: ['text'], Case: V3Context })

const VALUES = ['text', '', 0, -1.5, true, false, null, [1], { a: null }]
const make = (client, name, data) => bounded(client.rpc.make(name, data), () => `answer of ${name}`)

async function provided (t, client, callback) {
  const name = t.name('rpc')
  client.rpc.provide(name, callback)
  if (client.wire.line) await client.wire.line(`P|A|S|${name}`)
  else await client.wire.acked(6, 8, name)
  return name
}

for (const [title, caller, provider] of [['old asks old', 'login', 'login'], ['new asks old', 'newer', 'login'], ['old asks new', 'login', 'newer']]) {
  suite.case(`${title}: every value there and back`, async (t) => {
    const [a, b] = [await t[caller](), await t[provider]()]
    const name = await provided(t, b, (data, response) => response.send(data))
    for (const value of VALUES) assert.deepEqual(await make(a, name, value), value)
    assert.equal(await make(a, name, undefined), undefined)
  })

  suite.case(`${title}: error`, async (t) => {
    const [a, b] = [await t[caller](), await t[provider]()]
    const name = await provided(t, b, (data, response) => response.error(data))
    assert.equal(await rejection(make(a, name, 'bad thing')), 'bad thing')
  })

  suite.case(`${title}: nobody is left after a reject`, async (t) => {
    const [a, b] = [await t[caller](), await t[provider]()]
    const name = await provided(t, b, (data, response) => response.reject())
    assert.equal(await rejection(make(a, name, 1)), 'NO_RPC_PROVIDER')
  })
}

suite.case('with a callback', async (t) => {
  const [a, b] = await t.logins(2)
  const name = await provided(t, b, (data, response) => response.send(data.x + 1))
  assert.equal(await answer((callback) => a.rpc.make(name, { x: 2 }, callback)), 3)
})

suite.case('rejected calls go to another provider', async (t) => {
  const [a, b, c] = await t.logins(3)
  const name = await provided(t, b, (data, response) => response.reject())
  c.rpc.provide(name, (data, response) => response.send('c'))
  await c.wire.line(`P|A|S|${name}`)
  for (let i = 0; i < 10; i++) assert.equal(await make(a, name, i), 'c')
})

suite.case('acknowledged, answered later', async (t) => {
  const [a, b] = await t.logins(2)
  let respond
  const name = await provided(t, b, (data, response) => {
    response.ack()
    respond = () => response.send('late')
  })
  const result = make(a, name, 1)
  await a.wire.received.find((line) => line.startsWith(`P|A|REQ|${name}|`), 'ack')
  respond()
  assert.equal(await result, 'late')
})

suite.case('not acknowledged in time', async (t) => {
  const [a, b] = await t.logins(2)
  const name = await provided(t, b, (data, response) => { response.autoAck = false })
  assert.equal(await rejection(make(a, name, 1)), 'ACCEPT_TIMEOUT')
})

suite.case('not answered in time', async (t) => {
  const [a, b] = await t.logins(2)
  const name = await provided(t, b, () => {})
  assert.equal(await rejection(make(a, name, 1)), 'RESPONSE_TIMEOUT')
})

suite.case('nobody provides', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(make(client, t.name('rpc'), 1)), 'NO_RPC_PROVIDER')
})

suite.case('no longer provided', async (t) => {
  const [a, b] = await t.logins(2)
  const name = await provided(t, b, (data, response) => response.send(1))
  assert.equal(await make(a, name, 1), 1)
  b.rpc.unprovide(name)
  await b.wire.line(`P|A|US|${name}`)
  assert.equal(await rejection(make(a, name, 1)), 'NO_RPC_PROVIDER')
})

suite.case('forbidden', async (t) => {
  const client = await t.login()
  const name = t.name('forbidden')
  client.rpc.provide(name, () => {})
  await client.wire.error('MESSAGE_DENIED')
  assert.equal(await rejection(make(client, name, 1)), 'MESSAGE_DENIED')
})

suite.case('a hundred calls at once', async (t) => {
  const [a, b] = await t.logins(2)
  const name = await provided(t, b, (data, response) => response.send(data * 2))
  const results = await Promise.all(Array.from({ length: 100 }, (_, i) => make(a, name, i)))
  assert.deepEqual(results, Array.from({ length: 100 }, (_, i) => i * 2))
})
