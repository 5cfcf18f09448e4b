/** Publish and subscribe. */
import assert from 'node:assert/strict'
import { EVENT_ACTION, PARSER_ACTION, PRESENCE_ACTION, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { encode } from '../lib/raw.mjs'

export const suite = new Suite('events')

/** Subscribes and waits for the acknowledgement. */
async function subscribe (t, client, name) {
  const calls = t.calls(`event ${name}`)
  client.event.subscribe(name, calls.fn)
  await client.wire.acked(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE, name)
  return calls
}

/** Resolves when all that `from` emitted before has reached `to`. */
async function barrier (t, from, to) {
  const name = t.name('barrier')
  const calls = await subscribe(t, to, name)
  from.event.emit(name)
  await calls.nth(1)
}

suite.case('emit reaches a subscriber of another client', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('news')
  const calls = await subscribe(t, b, name)
  a.event.emit(name, { headline: 'hello' })
  assert.deepEqual(await calls.nth(1), [{ headline: 'hello' }])
})

const payloads = {
  undefined,
  null: null,
  true: true,
  false: false,
  zero: 0,
  'empty string': '',
  text: 'text with "quotes", \\ and \n newline',
  unicode: 'größer 日本語 😀 \u0000 \u2028',
  integer: 9007199254740991,
  float: -0.000001234,
  'large number': 1e21,
  'empty array': [],
  'empty object': {},
  nested: { a: [1, { b: [null, [[]], { c: { d: false } }] }], 'key with . and []': 'x', __proto: 1 }
}
for (const [label, payload] of Object.entries(payloads)) {
  suite.case(`payload: ${label}`, async (t) => {
    const [a, b] = await t.logins(2)
    const name = t.name('payload')
    const calls = await subscribe(t, b, name)
    a.event.emit(name, payload)
    assert.deepStrictEqual(await calls.nth(1), [payload])
  })
}

suite.case('payload: half a megabyte', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('payload')
  const calls = await subscribe(t, b, name)
  const payload = { text: 'ä'.repeat(250000) }
  a.event.emit(name, payload)
  assert.deepEqual(await calls.nth(1), [payload])
})

suite.case('no echo to the sender', async (t) => {
  const client = await t.login()
  const name = t.name('echo')
  const calls = await subscribe(t, client, name)
  client.event.emit(name, 1)
  await client.wire.ping()
  assert.equal(calls.list.length, 1, 'only the local call')
  assert.deepEqual(client.wire.messages(TOPIC.EVENT, EVENT_ACTION.EMIT), [])
})

suite.case('another connection of the same user receives the event', async (t) => {
  const username = t.name('user')
  const [a, b] = [await t.login({ username }), await t.login({ username })]
  const name = t.name('own')
  const calls = await subscribe(t, b, name)
  a.event.emit(name, 1)
  await calls.nth(1)
})

suite.case('two callbacks of one client share one subscription', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('shared')
  const first = await subscribe(t, b, name)
  const second = t.calls('second')
  b.event.subscribe(name, second.fn)
  a.event.emit(name, 1)
  await Promise.all([first.nth(1), second.nth(1)])
  await b.wire.ping()
  assert.equal(b.wire.messages(TOPIC.EVENT, EVENT_ACTION.EMIT).length, 1)
})

suite.case('unsubscribe of one of two callbacks keeps the other', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('shared')
  const first = await subscribe(t, b, name)
  const second = t.calls('second')
  b.event.subscribe(name, second.fn)
  b.event.unsubscribe(name, first.fn)
  a.event.emit(name, 1)
  await second.nth(1)
  assert.equal(first.list.length, 0)
})

suite.case('unsubscribe ends delivery', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('gone')
  const calls = await subscribe(t, b, name)
  a.event.emit(name, 1)
  await calls.nth(1)
  b.event.unsubscribe(name, calls.fn)
  await b.wire.acked(TOPIC.EVENT, EVENT_ACTION.UNSUBSCRIBE, name)
  a.event.emit(name, 2)
  await barrier(t, a, b)
  assert.equal(b.wire.messages(TOPIC.EVENT, EVENT_ACTION.EMIT).filter((message) => message.name === name).length, 1)
})

suite.case('subscribe again after unsubscribe', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('again')
  const calls = await subscribe(t, b, name)
  b.event.unsubscribe(name, calls.fn)
  await b.wire.acked(TOPIC.EVENT, EVENT_ACTION.UNSUBSCRIBE, name)
  const again = await subscribe(t, b, name)
  a.event.emit(name, 'again')
  assert.deepEqual(await again.nth(1), ['again'])
})

suite.case('thirty subscribers receive an event once each', async (t) => {
  const [sender, ...others] = await t.logins(31)
  const name = t.name('many')
  const all = await Promise.all(others.map((client) => subscribe(t, client, name)))
  sender.event.emit(name, { n: 1 })
  for (const calls of all) assert.deepEqual(await calls.nth(1), [{ n: 1 }])
  await Promise.all(others.map((client) => client.wire.ping()))
  for (const calls of all) assert.equal(calls.list.length, 1)
})

suite.case('events of one sender arrive in order', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('order')
  const calls = await subscribe(t, b, name)
  for (let n = 0; n < 1000; n++) a.event.emit(name, n)
  await calls.nth(1000)
  assert.deepEqual(calls.firsts, Array.from({ length: 1000 }, (_, n) => n))
})

suite.case('two hundred names in one subscription request', async (t) => {
  const [a, b] = await t.logins(2)
  const base = t.name('bulk')
  const calls = t.calls('bulk')
  for (let n = 0; n < 200; n++) b.event.subscribe(`${base}/${n}`, calls.fn)
  const request = await b.wire.request(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE, `${base}/199`)
  assert.equal(request.names.length, 200)
  await b.wire.acked(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE, `${base}/0`)
  for (let n = 0; n < 200; n++) a.event.emit(`${base}/${n}`, n)
  await calls.nth(200)
  assert.deepEqual(calls.firsts, Array.from({ length: 200 }, (_, n) => n))
})

suite.case('default batching window of the client', async (t) => {
  const a = await t.login()
  const b = await t.login({}, { subscriptionInterval: 100, nativeTimerRegistry: false, intervalTimerResolution: 50 })
  const name = t.name('window')
  const calls = await subscribe(t, b, name)
  a.event.emit(name, 1)
  await calls.nth(1)
})

suite.case('subscriptions sent without batching', async (t) => {
  const a = await t.login()
  const b = await t.login({}, { subscriptionInterval: 0 })
  const names = [t.name('x'), t.name('y'), t.name('z')]
  const all = []
  for (const name of names) all.push(await subscribe(t, b, name))
  for (const name of names) a.event.emit(name, name)
  for (const [index, calls] of all.entries()) assert.deepEqual(await calls.nth(1), [names[index]])
})

suite.case('subscription made before the login', async (t) => {
  const a = await t.login()
  const b = t.client()
  const name = t.name('early')
  const calls = t.calls('early')
  b.event.subscribe(name, calls.fn)
  await b.login({ username: t.name('user') })
  await b.wire.acked(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE, name)
  a.event.emit(name, 1)
  await calls.nth(1)
})

suite.case('emit without subscribers is silent', async (t) => {
  const client = await t.login()
  client.event.emit(t.name('nobody'), 1)
  await client.wire.ping()
})

for (const special of ['with space', 'ünïcode/日本/😀', '__proto__', 'constructor', 'a.b[0]', '*', '%_EVERYONE_%', 'x'.repeat(2000)]) {
  suite.case(`event name ${special.slice(0, 20)}`, async (t) => {
    const [a, b] = await t.logins(2)
    const calls = await subscribe(t, b, special)
    a.event.emit(special, 1)
    await calls.nth(1)
  })
}

suite.case('names that differ only a little do not mix', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('name')
  const upper = await subscribe(t, b, name.toUpperCase())
  const longer = await subscribe(t, b, `${name}/`)
  const exact = await subscribe(t, b, name)
  a.event.emit(name, 1)
  await exact.nth(1)
  await barrier(t, a, b)
  assert.deepEqual([upper.list.length, longer.list.length, exact.list.length], [0, 0, 1])
})

suite.case('a client that goes away leaves the others undisturbed', async (t) => {
  const [a, b, c] = await t.logins(3)
  const name = t.name('leave')
  const calls = await subscribe(t, b, name)
  await subscribe(t, c, name)
  await c.wire.close()
  for (let n = 0; n < 10; n++) a.event.emit(name, n)
  await calls.nth(10)
})

suite.case('acknowledgements on the wire', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: ['wire/1', 'wire/2'], correlationId: 'any text' })
  const subscribed = await raw.message(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE)
  assert.deepEqual(subscribed, { topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, correlationId: 'any text', isAck: true })
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.UNSUBSCRIBE, names: ['wire/1', 'wire/never'], correlationId: '1' })
  const unsubscribed = await raw.message(TOPIC.EVENT, EVENT_ACTION.UNSUBSCRIBE)
  assert.deepEqual(unsubscribed, { topic: TOPIC.EVENT, action: EVENT_ACTION.UNSUBSCRIBE, correlationId: '1', isAck: true })
})

suite.case('empty list of names is acknowledged', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: [], correlationId: '9' })
  assert.equal((await raw.message(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE)).correlationId, '9')
})

suite.case('repeated subscription: MULTIPLE_SUBSCRIPTIONS, then the acknowledgement', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('twice')
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: [name], correlationId: '0' })
  await raw.message(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE)
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: [name], correlationId: '1' })
  await raw.messages.find((message) => message.isAck, 'ack')
  const [error, ack] = raw.messages.list
  assert.deepEqual([error.action, error.name, error.originalAction], [EVENT_ACTION.MULTIPLE_SUBSCRIPTIONS, name, EVENT_ACTION.SUBSCRIBE])
  assert.equal(ack.correlationId, '1')
})

suite.case('forwarded event has name and data only', async (t) => {
  const [sender, receiver] = [await t.rawLogin(), await t.rawLogin()]
  receiver.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.SUBSCRIBE, names: ['wire/fwd'], correlationId: '0' })
  await receiver.message(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE)
  sender.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name: 'wire/fwd', data: '{ "a" : 1 }', correlationId: 'x', isAck: true, isError: true })
  const message = await receiver.message(TOPIC.EVENT, EVENT_ACTION.EMIT)
  assert.deepEqual(Object.keys(message).sort(), ['action', 'data', 'name', 'topic'])
  assert.deepEqual(JSON.parse(message.data), { a: 1 })
}, { oracle: 'forwards every field that the sender put into the message' })

suite.case('emit with invalid JSON is refused and not forwarded', async (t) => {
  const raw = await t.rawLogin()
  const client = await t.login()
  const name = t.name('bad')
  const calls = await subscribe(t, client, name)
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name, data: '{"a":' })
  const error = await raw.message(TOPIC.EVENT, EVENT_ACTION.INVALID_MESSAGE_DATA)
  assert.equal(error.originalAction, EVENT_ACTION.EMIT)
  raw.send({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name, data: '"good"' })
  assert.deepEqual(await calls.nth(1), ['good'])
}, { oracle: 'forwards data without checking it, which kills the receiving client' })

suite.case('unknown action is answered UNKNOWN_ACTION', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: 77, name: 'x' })
  const error = await raw.message(TOPIC.PARSER, PARSER_ACTION.UNKNOWN_ACTION)
  assert.equal(error.originalAction, 77)
  assert.equal(error.originalTOPIC, TOPIC.EVENT)
}, { oracle: 'ignores unknown actions without an answer' })

suite.case('several events in one frame arrive in order', async (t) => {
  const raw = await t.rawLogin()
  const client = await t.login()
  const name = t.name('frame')
  const calls = await subscribe(t, client, name)
  raw.sendBytes(Buffer.concat([1, 2, 3].map((n) => encode({ topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name, data: String(n) }))))
  await calls.nth(3)
  assert.deepEqual(calls.firsts, [1, 2, 3])
}, { oracle: 'drops all but the first message of a frame' })

suite.case('client that does not read is closed, nobody else notices', async (t) => {
  const server = await t.server({ config: { websocket: { maxOutgoingBytes: 200000 } } })
  const [sender, reader] = [await t.login({}, {}, server.url), await t.login({}, {}, server.url)]
  const stuck = await t.login({}, {}, server.url)
  const name = t.name('flood')
  const calls = await subscribe(t, reader, name)
  await subscribe(t, stuck, name)
  const gone = t.calls('presence')
  reader.presence.subscribe(stuck.user, gone.fn)
  await reader.wire.acked(TOPIC.PRESENCE, PRESENCE_ACTION.SUBSCRIBE, stuck.user)
  stuck.wire.allowConnectionErrors()
  stuck.options.maxReconnectAttempts = 0
  stuck.wire.socket._socket.pause()
  const payload = 'x'.repeat(60000)
  let count = 0
  // One after the other, so that the reading client is never behind.
  while (gone.list.length === 0) {
    count += 1
    assert(count < 2000, 'closed within 120 MB')
    sender.event.emit(name, payload)
    await calls.nth(count)
  }
  stuck.wire.socket._socket.resume()
  sender.event.emit(name, 'last')
  assert.deepEqual(await calls.nth(count + 1), ['last'])
}, { oracle: 'keeps everything for a client that does not read', limit: 30000 })
