/** Client 2.3.4: what it does after its connection was lost (protocol-text-v3.md section 12). */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { V3Context, answer } from '../lib/v3.mjs'
import { bounded } from '../lib/wait.mjs'

export const suite = new Suite('v3 reconnect', {}, { transports: ['text'], Case: V3Context })

suite.case('all subscriptions come back', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('all')
  const [event, presence, one] = [t.calls('event'), t.calls('presence'), t.calls('one user')]
  a.event.subscribe(name, event.fn)
  a.rpc.provide(name, (data, response) => response.send(data))
  const guest = t.name('guest')
  a.presence.subscribe(presence.fn)
  a.presence.subscribe(guest, one.fn)
  const record = await t.record(a, name)
  const listened = t.calls('listen')
  a.record.listen(`^${name}/.*`, listened.fn)
  a.event.listen(`^${name}/.*`, listened.fn)
  await a.wire.ping()
  a.wire.drop()
  await t.again(a)
  await a.wire.received.find((line) => line === `E|A|L|^${name}/.*`, 'second ack', { from: a.wire.received.list.lastIndexOf('A|A') })
  await a.wire.ping()
  b.event.emit(name, 5)
  assert.deepEqual(await event.nth(1), [5])
  assert.equal(await b.rpc.make(name, 'x'), 'x')
  await t.login({ username: guest })
  assert.deepEqual(await one.nth(1), [true, guest])
  await presence.find((user) => user === guest, 'guest')
  const other = await t.record(b, name)
  other.set('x', 1)
  await t.until(() => record.get('x') === 1, 'the change arrives')
  await t.record(b, `${name}/1`)
  b.event.subscribe(`${name}/2`, () => {})
  await listened.find((match) => match === `${name}/1`, 'record found')
  await listened.find((match) => match === `${name}/2`, 'event found')
})

suite.case('a record that others have changed meanwhile', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  await answer((callback) => one.set({ v: 0 }, callback))
  await t.until(() => two.get('v') === 0, 'seen')
  a.wire.drop()
  await answer((callback) => two.set('v', 1, callback))
  await answer((callback) => two.set('w', 2, callback))
  await t.again(a)
  await t.until(() => one.get('w') === 2 && Number(one.version) === Number(two.version), 'the newest state')
  assert.deepEqual(one.get(), { v: 1, w: 2 })
})

suite.case('what is written while offline', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const calls = t.calls('event')
  b.event.subscribe(name, calls.fn)
  await b.wire.line(`E|A|S|${name}`)
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  a.wire.drop()
  await a.wire.states.find((now) => now === 'RECONNECTING', 'RECONNECTING')
  one.set('offline', true)
  a.event.emit(name, 'offline')
  await t.again(a)
  assert.deepEqual(await calls.nth(1), ['offline'])
  await t.until(() => two.get('offline') === true, 'the write arrives')
  await a.wire.ping()
  await t.until(() => Number(one.version) === Number(two.version), 'same version')
})

suite.case('subscribed while offline: told of the repetition, subscribed once', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('event')
  const calls = t.calls('event')
  a.wire.drop()
  await a.wire.states.find((now) => now === 'RECONNECTING', 'RECONNECTING')
  a.event.subscribe(name, calls.fn)
  await t.again(a)
  assert.equal((await a.wire.error('MULTIPLE_SUBSCRIPTIONS'))[0], name)
  await a.wire.ping()
  b.event.emit(name, 1)
  b.event.emit(name, 2)
  await calls.nth(2)
  assert.deepEqual(calls.firsts, [1, 2])
})

suite.case('requests without an answer yet are sent again', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  await bounded(b.record.setDataWithAck(name, { x: 1 }), () => 'ack')
  const answers = [a.record.snapshot(name), a.record.has(name), a.record.head(name)]
  a.wire.drop()
  assert.deepEqual(await bounded(Promise.all(answers), () => 'answers'), [{ x: 1 }, true, 1])
  await a.wire.ping()
})

suite.case('a server that starts again', async (t) => {
  const server = await t.server({})
  const client = await t.login({}, {}, server.url)
  const name = t.name('event')
  const calls = t.calls('event')
  client.event.subscribe(name, calls.fn)
  await client.wire.line(`E|A|S|${name}`)
  client.wire.connectionErrorsAllowed = true
  assert.equal(await server.stop(), 0)
  const again = await t.server({ port: server.port })
  await t.until(() => client.getConnectionState() === 'OPEN', 'logged in again')
  await client.wire.received.find((line) => line === `E|A|S|${name}`, 'second ack', { from: client.wire.received.list.lastIndexOf('A|A') })
  const other = await t.login({}, {}, again.url)
  other.event.emit(name, 1)
  assert.deepEqual(await calls.nth(1), [1])
})
