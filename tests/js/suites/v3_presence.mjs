/** Client 2.3.4: presence. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { V3Context } from '../lib/v3.mjs'

export const suite = new Suite('v3 presence', {}, { transports: ['text'], Case: V3Context })

suite.case('who is there', async (t) => {
  const [a, b] = [await t.login(), await t.newer()]
  const calls = t.calls('getAll')
  a.presence.getAll(calls.fn)
  const [users] = await calls.nth(1)
  assert.ok(users.includes(b.user) && !users.includes(a.user))
  a.presence.getAll([b.user, 'nobody'], calls.fn)
  assert.deepEqual((await calls.nth(2))[0], { [b.user]: true, nobody: false })
  a.presence.getAll([], calls.fn)
  assert.deepEqual((await calls.nth(3))[0], {})
})

suite.case('nobody else is there', async (t) => {
  const server = await t.server({})
  const client = await t.login({}, {}, server.url)
  const calls = t.calls('getAll')
  client.presence.getAll(calls.fn)
  assert.deepEqual(await calls.nth(1), [[]])
})

suite.case('everybody who comes and goes', async (t) => {
  const watcher = await t.login()
  const calls = t.calls('presence')
  watcher.presence.subscribe(calls.fn)
  await watcher.wire.line('U|A|S|S')
  const client = await t.login({ username: t.name('guest') })
  await calls.find((user, here) => user === client.user && here, 'joined')
  await client.wire.close()
  await calls.find((user, here) => user === client.user && !here, 'left')
  watcher.presence.unsubscribe(calls.fn)
  await watcher.wire.line('U|A|US|US')
  const count = calls.list.length
  await t.login()
  await watcher.wire.ping()
  assert.equal(calls.list.length, count)
})

suite.case('single users; also subscribed to everybody: one call for each event', async (t) => {
  const watcher = await t.login()
  const [user, other] = [t.name('user'), t.name('other')]
  const calls = t.calls('one user')
  const all = t.calls('everybody')
  watcher.presence.subscribe(user, calls.fn)
  watcher.presence.subscribe(other, calls.fn)
  await watcher.wire.received.find((line) => /^U\|A\|S\|\d+$/.test(line), 'ack')
  watcher.presence.subscribe(all.fn)
  await watcher.wire.line('U|A|S|S')
  const client = await t.login({ username: user })
  assert.deepEqual(await calls.nth(1), [true, user])
  await client.wire.close()
  assert.deepEqual(await calls.nth(2), [false, user])
  await watcher.wire.ping()
  assert.equal(calls.list.length, 2)
  assert.deepEqual(all.list.filter(([name]) => name === user), [[user, true], [user, false]])
  watcher.presence.unsubscribe(user, calls.fn)
  await watcher.wire.received.find((line) => /^U\|A\|US\|\d+$/.test(line), 'ack')
  watcher.presence.unsubscribe(all.fn)
  await watcher.wire.line('U|A|US|US')
  await t.login({ username: user })
  await watcher.wire.ping()
  assert.equal(calls.list.length, 2)
})
