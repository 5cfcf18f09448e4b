/** Lists. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'

export const suite = new Suite('lists')

const open = (t, clients, name) => Promise.all(clients.map((client) => t.ready(client.record.getList(name))))

suite.case('fresh list is empty', async (t) => {
  const [list] = await open(t, [await t.login()], t.name('list'))
  assert.deepEqual(list.getEntries(), [])
  assert.equal(list.isEmpty(), true)
})

suite.case('setEntries reaches the other client', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.setEntries(['one', 'two'])
  assert.deepEqual(await changes.nth(1), [['one', 'two']])
  assert.deepEqual(b.getEntries(), ['one', 'two'])
})

suite.case('addEntry appends', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  for (const entry of ['x', 'y', 'z']) a.addEntry(entry)
  assert.deepEqual(await changes.nth(3), [['x', 'y', 'z']])
})

suite.case('addEntry at an index', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.setEntries(['a', 'c'])
  a.addEntry('b', 1)
  assert.deepEqual(await changes.nth(2), [['a', 'b', 'c']])
})

suite.case('removeEntry', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.setEntries(['a', 'b', 'a', 'c'])
  a.removeEntry('a')
  assert.deepEqual(await changes.nth(2), [['b', 'c']])
})

suite.case('removeEntry at an index', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.setEntries(['a', 'b', 'a', 'c'])
  a.removeEntry('a', 2)
  assert.deepEqual(await changes.nth(2), [['a', 'b', 'c']])
})

suite.case('list becomes empty', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.setEntries(['a'])
  a.removeEntry('a')
  assert.deepEqual(await changes.nth(2), [[]])
  assert.equal(b.isEmpty(), true)
})

suite.case('entry events of the other client', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const [added, removed, moved] = [t.calls('added'), t.calls('removed'), t.calls('moved')]
  b.on('entry-added', added.fn)
  b.on('entry-removed', removed.fn)
  b.on('entry-moved', moved.fn)
  a.setEntries(['a', 'b', 'c'])
  await added.nth(3)
  assert.deepEqual(added.list, [['a', 0], ['b', 1], ['c', 2]])
  a.setEntries(['c', 'b'])
  assert.deepEqual(await removed.nth(1), ['a', 0])
  assert.deepEqual(await moved.nth(1), ['c', 0])
})

suite.case('entry events of the own client', async (t) => {
  const [list] = await open(t, [await t.login()], t.name('list'))
  const added = t.calls('added')
  list.on('entry-added', added.fn)
  list.addEntry('x')
  assert.deepEqual(await added.nth(1), ['x', 0])
})

suite.case('two clients add in turn', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  for (let n = 1; n <= 10; n++) {
    const [writer, reader] = n % 2 ? [a, b] : [b, a]
    writer.addEntry(`e${n}`)
    await t.until(() => reader.version === n, `version ${n}`)
  }
  assert.deepEqual(a.getEntries(), Array.from({ length: 10 }, (_, n) => `e${n + 1}`))
  assert.deepEqual(b.getEntries(), a.getEntries())
})

suite.case('setEntriesWithAck', async (t) => {
  const [client, other] = await t.logins(2)
  const [list] = await open(t, [client], t.name('list'))
  await list.setEntriesWithAck(['x', 'y'])
  assert.deepEqual(await other.record.snapshot(list.name), ['x', 'y'])
})

suite.case('list of ten thousand entries', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('list'))
  const entries = Array.from({ length: 10000 }, (_, n) => `record/${n}`)
  await a.setEntriesWithAck(entries)
  await t.until(() => b.version === 1, 'version 1')
  assert.deepEqual(b.getEntries(), entries)
  b.addEntry('one more')
  await t.until(() => a.version === 2, 'version 2')
  assert.equal(a.getEntries().length, 10001)
})

suite.case('entries lead to records', async (t) => {
  const [a, b] = await t.logins(2)
  const base = t.name('item')
  const names = ['1', '2', '3'].map((n) => `${base}/${n}`)
  for (const name of names) await a.record.setDataWithAck(name, { name })
  const [list] = await open(t, [a], t.name('list'))
  await list.setEntriesWithAck(names)
  const [other] = await open(t, [b], list.name)
  const records = await Promise.all(other.getEntries().map((name) => t.ready(b.record.getRecord(name))))
  assert.deepEqual(records.map((record) => record.get('name')), names)
})

suite.case('unsubscribe', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const [gone, stays] = [t.calls('gone'), t.calls('stays')]
  b.subscribe(gone.fn)
  b.subscribe(stays.fn)
  b.unsubscribe(gone.fn)
  a.addEntry('x')
  await stays.nth(1)
  assert.equal(gone.list.length, 0)
})

suite.case('delete', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('list'))
  const deleted = t.calls('delete event')
  b.on('delete', deleted.fn)
  await a.setEntriesWithAck(['x'])
  await a.delete()
  await deleted.nth(1)
  assert.equal(await clients[1].record.has(a.name), false)
})

suite.case('unicode entries and duplicates', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('list'))
  const entries = ['ü/日本', '😀', '😀', '']
  a.setEntries(entries)
  await t.until(() => b.version === 1, 'version 1')
  assert.deepEqual(b.getEntries(), entries)
})

suite.case('double ended queue: set, push, unshift, pop, shift', async (t) => {
  const clients = await t.logins(2)
  const name = t.name('dq')
  const [a, b] = await Promise.all(clients.map((client) => t.ready(client.record.getDq(name))))
  a.setEntries(['b', 'c'])
  a.push('d')
  a.unshift('a')
  assert.deepEqual(a.getEntries(), ['a', 'b', 'c', 'd'])
  await t.until(() => b.getEntries().join('') === 'abcd', 'same entries')
  assert.equal(b.pop(), 'd')
  assert.equal(b.shift(), 'a')
  await t.until(() => a.getEntries().join('') === 'bc', 'same entries')
  assert.deepEqual([b.getFirst(), b.getLast()], ['b', 'c'])
})

suite.case('double ended queue of two hundred entries', async (t) => {
  const clients = await t.logins(3)
  const name = t.name('dq')
  const [a, b] = await Promise.all(clients.slice(0, 2).map((client) => t.ready(client.record.getDq(name))))
  for (let n = 0; n < 200; n++) a.push(`e${n}`)
  await t.until(() => b.getEntries().length === 200, '200 entries')
  assert.deepEqual(b.getEntries(), Array.from({ length: 200 }, (_, n) => `e${n}`))
  const fresh = await t.ready(clients[2].record.getDq(name))
  assert.deepEqual(fresh.getEntries(), b.getEntries())
})
