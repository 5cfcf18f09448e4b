/** Client 2.3.4: events and listening for them, also with clients of version 7. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { V3Context } from '../lib/v3.mjs'

export const suite = new Suite('v3 events', {}, { transports: ['text'], Case: V3Context })

const VALUES = ['text', '', 'with "quotes"\n', 'ü😀', 0, -1.5, 1e21, true, false, null, undefined, [], [1, [2]], {}, { a: { b: null } }]

suite.case('every value, to a client of each kind and from it', async (t) => {
  const name = t.name('event')
  const clients = [await t.login(), await t.login(), await t.newer(), await t.newer({ path: '/deepstream-json', socketOptions: { jsonTransportMode: true } })]
  const calls = clients.map((client, i) => t.calls(`client ${i}`))
  for (const [i, client] of clients.entries()) {
    client.event.subscribe(name, (value) => calls[i].fn(value))
    if (i < 2) await client.wire.line(`E|A|S|${name}`)
    else await client.wire.acked(4, 3, name)
  }
  for (const sender of clients) for (const value of VALUES) sender.event.emit(name, value)
  for (const [i, own] of calls.entries()) {
    await own.nth(4 * VALUES.length)
    // Each has what the others sent, in the order of each of them.
    const received = own.firsts.map((value) => JSON.stringify(value) ?? 'undefined').sort()
    const expected = [...VALUES, ...VALUES, ...VALUES, ...VALUES].map((value) => JSON.stringify(value) ?? 'undefined').sort()
    assert.deepEqual(received, expected, `client ${i}`)
  }
})

suite.case('numbers that JSON does not have arrive as null', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('event')
  const calls = t.calls(name)
  b.event.subscribe(name, calls.fn)
  await b.wire.line(`E|A|S|${name}`)
  for (const value of [NaN, Infinity, -Infinity]) a.event.emit(name, value)
  await calls.nth(3)
  assert.deepEqual(calls.firsts, [null, null, null])
})

suite.case('unsubscribed', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('event')
  const calls = t.calls(name)
  b.event.subscribe(name, calls.fn)
  await b.wire.line(`E|A|S|${name}`)
  a.event.emit(name, 1)
  await calls.nth(1)
  b.event.unsubscribe(name, calls.fn)
  await b.wire.line(`E|A|US|${name}`)
  a.event.emit(name, 2)
  await a.wire.ping()
  await b.wire.ping()
  assert.deepEqual(calls.firsts, [1])
  b.event.unsubscribe(name)       // again: simply acknowledged
  await b.wire.ping()
})

suite.case('a burst of a thousand, many in one frame, in order', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('burst')
  const calls = t.calls(name)
  b.event.subscribe(name, calls.fn)
  await b.wire.line(`E|A|S|${name}`)
  for (let i = 0; i < 1000; i++) a.event.emit(name, i)
  await calls.nth(1000)
  assert.deepEqual(calls.firsts, Array.from({ length: 1000 }, (_, i) => i))
  assert.ok(a.wire.frames.list.some((frame) => frame.length === 100))
})

suite.case('forbidden', async (t) => {
  const client = await t.login()
  const name = t.name('forbidden')
  client.event.subscribe(name, () => {})
  assert.equal((await client.wire.error('MESSAGE_DENIED'))[0], name)
  client.event.emit(name, 1)
  assert.equal((await client.wire.error('MESSAGE_DENIED'))[0], name)
  assert.ok(client.wire.received.list.includes(`E|E|MESSAGE_DENIED|${name}|EVT`))
})

suite.case('a permission check that fails', async (t) => {
  const client = await t.login()
  client.event.emit(t.name('broken'), 1)
  await client.wire.error('MESSAGE_PERMISSION_ERROR')
})

suite.case('listening: found, accepted, removed, no more', async (t) => {
  const [provider, a] = await t.logins(2)
  const name = t.name('live')
  const calls = t.calls('listen')
  provider.event.listen(`^${name}.*`, (match, found, response) => {
    calls.fn(match, found)
    if (found) response.accept()
  })
  await provider.wire.line(`E|A|L|^${name}.*`)
  a.event.subscribe(name, () => {})
  assert.deepEqual(await calls.nth(1), [name, true])
  await provider.wire.ping()
  a.event.unsubscribe(name)
  assert.deepEqual(await calls.nth(2), [name, false])
  provider.event.unlisten(`^${name}.*`)
  await provider.wire.line(`E|A|UL|^${name}.*`)
  a.event.subscribe(name, () => {})
  await a.wire.ping()
  await provider.wire.ping()
  assert.equal(calls.list.length, 2)
})

suite.case('listening: rejected, so the next one is asked', async (t) => {
  const [first, second] = [await t.login(), await t.newer()]
  const name = t.name('live')
  const calls = t.calls('listen')
  first.event.listen(`^${name}.*`, (match, found, response) => {
    calls.fn('first', match)
    response.reject()
  })
  await first.wire.line(`E|A|L|^${name}.*`)
  second.event.listen(`^${name}$`, (match, response) => {
    calls.fn('second', match)
    response.reject()
  })
  await second.wire.acked(4, 5)
  const third = await t.login()
  third.event.subscribe(name, () => {})
  await calls.nth(2)
  assert.deepEqual(calls.list.sort(), [['first', name], ['second', name]])
})

suite.case('listening with what is no pattern', async (t) => {
  const client = await t.login()
  client.event.listen('(', () => {})
  await client.wire.error('INVALID_LISTEN_REGEX')
})

suite.case('listening is forbidden', async (t) => {
  const client = await t.login()
  client.event.listen('forbidden/.*', () => {})
  await client.wire.error('MESSAGE_DENIED')
})
