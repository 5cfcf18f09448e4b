/** Client 2.3.4: records, lists, listening for records, also with clients of version 7. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { MERGE_STRATEGIES, V3Context, answer } from '../lib/v3.mjs'
import { bounded, rejection } from '../lib/wait.mjs'

export const suite = new Suite('v3 records', {}, { transports: ['text'], Case: V3Context })

const acked = (call) => answer((callback) => call(callback))
const changed = (t, record, path, value) => t.until(() => {
  try {
    assert.deepEqual(record.get(path), value)
    return true
  } catch {
    return false
  }
}, `${path ?? 'the record'} is ${JSON.stringify(value)}`)

suite.case('every value of a path, between clients of each kind', async (t) => {
  const name = t.name('record')
  const [a, b, c] = [await t.login(), await t.login(), await t.newer()]
  const [old, other] = [await t.record(a, name), await t.record(b, name)]
  const fresh = c.record.getRecord(name)
  await t.ready(fresh)
  const values = ['text', '', 'é"\\', 0, -1.5, true, false, null, [1, [null]], { deep: { er: [1] } }]
  for (const [i, value] of values.entries()) {
    await acked((callback) => old.set(`from.old[${i}]`, value, callback))
    await changed(t, other, `from.old[${i}]`, value)
    await changed(t, fresh, `from.old[${i}]`, value)
  }
  for (const [i, value] of values.entries()) {
    await fresh.setWithAck(`from.fresh[${i}]`, value)
    await changed(t, old, `from.fresh[${i}]`, value)
    await changed(t, other, `from.fresh[${i}]`, value)
  }
  fresh.erase('from.old')
  await changed(t, old, 'from.old', undefined)
  await changed(t, old, 'from', { fresh: values })
})

suite.case('a path is erased', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  await acked((callback) => one.set({ a: 1, n: { b: 2, c: 3 } }, callback))
  await changed(t, two, undefined, { a: 1, n: { b: 2, c: 3 } })
  await acked((callback) => one.set('n.b', undefined, callback))
  await t.until(() => two.version === one.version, 'same version')
  const three = await t.record(await t.login(), name)
  assert.deepEqual(three.get(), { a: 1, n: { c: 3 } })
})

suite.case('subscriptions to paths', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  const whole = t.calls('record')
  const path = t.calls('path')
  two.subscribe(whole.fn)
  two.subscribe('x.y', path.fn, true)
  one.set('x.y', 1)
  await whole.nth(1)
  one.set('z', 2)
  await whole.nth(2)
  assert.deepEqual(path.firsts, [undefined, 1])
  assert.deepEqual(whole.firsts, [{ x: { y: 1 } }, { x: { y: 1 }, z: 2 }])
})

suite.case('what was set before the record was ready', async (t) => {
  const client = await t.login()
  const name = t.name('record')
  const record = client.record.getRecord(name)
  record.set({ a: 1 })
  record.set('b', 2)
  await t.ready(record)
  await acked((callback) => record.set('c', 3, callback))
  assert.deepEqual((await t.record(await t.login(), name)).get(), { a: 1, b: 2, c: 3 })
})

suite.case('write callbacks: promise, callback, nothing to change', async (t) => {
  const client = await t.login()
  const record = await t.record(client, t.name('record'))
  await bounded(record.setWithAck({ a: 1 }), () => 'ack')
  await acked((callback) => record.setWithAck('a', 2, callback))
  await acked((callback) => record.set('a', 2, callback))
  assert.deepEqual(client.wire.received.list.filter((line) => line.startsWith('R|WA')),
    [`R|WA|${record.name}|[1]|L`, `R|WA|${record.name}|[2]|L`])
})

suite.case('setData with and without path and callback', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  await bounded(a.record.setDataWithAck(name, { a: 1 }), () => 'ack')
  await acked((callback) => a.record.setData(name, 'b.c', [1], callback))
  a.record.setData(name, 'd', null)
  a.record.setData(name, 'e', '')
  await a.wire.ping()
  assert.deepEqual(await b.record.snapshot(name), { a: 1, b: { c: [1] }, d: null, e: '' })
  a.record.setData(name, { only: true })
  await a.wire.ping()
  assert.deepEqual(await answer((callback) => b.record.snapshot(name, callback)), { only: true })
})

suite.case('snapshot, has, head', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const record = await t.record(a, name)
  await acked((callback) => record.set({ x: 1 }, callback))
  assert.deepEqual(await b.record.snapshot(name), { x: 1 })
  assert.equal(await b.record.has(name), true)
  assert.equal(await b.record.has(t.name('missing')), false)
  assert.equal(await b.record.head(name), 1)
  assert.equal(await b.record.head(t.name('missing')), -1)
  assert.equal(await answer((callback) => b.record.has(name, callback)), true)
  assert.equal(await answer((callback) => b.record.head(name, callback)), 1)
  // Of a record that one has they are answered without the server.
  assert.deepEqual(await a.record.snapshot(name), { x: 1 })
  assert.equal(await a.record.has(name), true)
  assert.equal(await a.record.head(name), 1)
})

suite.case('many at the same time, of the same names', async (t) => {
  const client = await t.login()
  const names = Array.from({ length: 30 }, () => t.name('record'))
  for (const name of names.slice(0, 15)) await bounded(client.record.setDataWithAck(name, { name }), () => 'ack')
  const reads = names.flatMap((name) => [client.record.has(name), client.record.head(name), client.record.has(name)])
  const found = await bounded(Promise.all(reads), () => 'answers')
  for (const [i] of names.entries()) {
    assert.deepEqual(found.slice(3 * i, 3 * i + 3), i < 15 ? [true, 1, true] : [false, -1, false])
  }
})

suite.case('snapshot of a missing record', async (t) => {
  const client = await t.login()
  const name = t.name('missing')
  await rejection(client.record.snapshot(name))
  assert.equal((await client.wire.error('RECORD_NOT_FOUND'))[0], name)
  await client.wire.ping()
  assert.equal(client.wire.errors.list.length, 0)
  const failed = await rejection(answer((callback) => client.record.snapshot(name, callback)))
  assert.equal(failed, 'RECORD_NOT_FOUND')
  await client.wire.error('RECORD_NOT_FOUND')
})

suite.case('discard', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('record')
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  const discarded = new Promise((resolve) => two.once('discard', resolve))
  two.discard()
  await bounded(discarded, () => 'discard')
  await acked((callback) => one.set('a', 1, callback))
  await b.wire.ping()
  assert.ok(!b.wire.received.list.some((line) => line.startsWith(`R|P|${name}`)))
  assert.deepEqual((await t.record(b, name)).get(), { a: 1 })
})

suite.case('delete, seen by everybody', async (t) => {
  const name = t.name('record')
  const [a, b, c] = [await t.login(), await t.login(), await t.newer()]
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  const fresh = c.record.getRecord(name)
  await t.ready(fresh)
  const deleted = Promise.all([one, two, fresh].map((record) => new Promise((resolve) => record.once('delete', resolve))))
  one.delete()
  await bounded(deleted, () => 'delete')
  assert.equal(await b.record.has(name), false)
})

suite.case('deleted by a new client', async (t) => {
  const name = t.name('record')
  const [a, c] = [await t.login(), await t.newer()]
  const one = await t.record(a, name)
  const fresh = c.record.getRecord(name)
  await t.ready(fresh)
  const deleted = new Promise((resolve) => one.once('delete', resolve))
  await fresh.delete()
  await bounded(deleted, () => 'delete')
})

suite.case('forbidden: every call is settled', async (t) => {
  const client = await t.login()
  const name = t.name('forbidden')
  const denied = async () => assert.equal((await client.wire.error('MESSAGE_DENIED'))[0], name)
  for (const call of ['snapshot', 'has', 'head']) {
    const failed = await rejection(answer((callback) => client.record[call](name, callback)))
    assert.equal(failed, 'MESSAGE_DENIED', call)
    await denied()
  }
  assert.equal(await rejection(acked((callback) => client.record.setData(name, { a: 1 }, callback))), 'MESSAGE_DENIED')
  await denied()
  client.record.getRecord(name)
  await denied()
  client.record.listen(name, () => {})
  await denied()
  await client.wire.error('UNSOLICITED_MESSAGE')      // its own: a listener knows no refusals
})

suite.case('writes that fail are told to their callbacks', async (t) => {
  const client = await t.login()
  const record = await t.record(client, t.name('record'))
  assert.equal(await rejection(acked((callback) => record.set('a[99999999]', 1, callback))), 'INVALID_MESSAGE_DATA')
  await client.wire.error('INVALID_MESSAGE_DATA')
})

for (const [title, strategy, merged] of [
  ['the remote state wins', MERGE_STRATEGIES.REMOTE_WINS, { from: 'b' }],
  ['the local state wins', MERGE_STRATEGIES.LOCAL_WINS, { from: 'a' }],
  ['merged', (record, data, version, callback) => callback(null, { from: 'both', ...data, ...record.get() }), { from: 'a' }]
]) {
  suite.case(`conflict: ${title}`, async (t) => {
    const name = t.name('record')
    const [a, b] = await t.logins(2)
    const [one, two] = [await t.record(a, name), await t.record(b, name)]
    one.setMergeStrategy(strategy)
    two.setMergeStrategy(MERGE_STRATEGIES.REMOTE_WINS)
    // Both write the same version; which comes first is the server's to say.
    one.set({ from: 'a' })
    two.set({ from: 'b' })
    await t.until(() => one.version > 0 && Number(one.version) === Number(two.version) && JSON.stringify(one.get()) === JSON.stringify(two.get()), 'agreement')
    await Promise.all([a, b].map((client) => client.wire.ping()))
    const lost = a.wire.received.list.some((line) => line.startsWith(`R|E|VERSION_EXISTS|${name}`))
    assert.deepEqual(two.get(), lost ? merged : { from: 'a' })
  })
}

suite.case('conflict of a write with a callback', async (t) => {
  const name = t.name('record')
  const [a, b] = await t.logins(2)
  const [one, two] = [await t.record(a, name), await t.record(b, name)]
  one.setMergeStrategy(MERGE_STRATEGIES.LOCAL_WINS)
  const calls = t.calls('ack')
  // `one` does not see this before it writes.
  const onMessage = one._$onMessage
  one._$onMessage = () => {}
  await acked((callback) => two.set({ from: 'b' }, callback))
  await a.wire.ping()
  one._$onMessage = onMessage
  one.set({ from: 'a' }, calls.fn)
  assert.deepEqual(await calls.nth(1), [null])
  assert.deepEqual(await (await t.login()).record.snapshot(name), { from: 'a' })
  assert.ok(a.wire.received.list.includes(`R|E|VERSION_EXISTS|${name}|1|{"from":"b"}|{"writeSuccess":true}`))
})

suite.case('a version too far ahead is answered so that the client recovers', async (t) => {
  const client = await t.login()
  const record = await t.record(client, t.name('record'))
  await acked((callback) => record.set({ a: 1 }, callback))
  record.version = 7
  record.set({ a: 2 })
  await client.wire.line(`R|E|VERSION_EXISTS|${record.name}|1|{"a":1}`)
  await changed(t, record, undefined, { a: 1 })
})

suite.case('anonymous record', async (t) => {
  const [a, b] = await t.logins(2)
  const [first, second] = [t.name('first'), t.name('second')]
  const anonymous = a.record.getAnonymousRecord()
  const calls = t.calls('anonymous')
  anonymous.subscribe('x', calls.fn)
  const [one, two] = [await t.record(b, first), await t.record(b, second)]
  anonymous.setName(first)
  await bounded(new Promise((resolve) => anonymous.once('ready', resolve)), () => 'ready')
  one.set('x', 1)
  await calls.find((value) => value === 1, 'value of the first')
  anonymous.setName(second)
  await bounded(new Promise((resolve) => anonymous.once('ready', resolve)), () => 'ready')
  two.set('x', 2)
  await calls.find((value) => value === 2, 'value of the second')
  anonymous.set('y', 3)
  await changed(t, two, 'y', 3)
  anonymous.discard()
  await a.wire.line(`R|A|US|${second}`)
})

suite.case('lists: entries come, go and move', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('list')
  const [one, two] = [a.record.getList(name), b.record.getList(name)]
  await Promise.all([t.ready(one), t.ready(two)])
  const calls = t.calls('list')
  for (const event of ['added', 'removed', 'moved']) two.on(`entry-${event}`, (entry, index) => calls.fn(event, entry, index))
  await acked((callback) => one.setEntries(['a', 'b'], callback))
  await calls.nth(2)
  await bounded(one.addEntryWithAck('c', 0), () => 'ack')
  await bounded(one.removeEntryWithAck('a'), () => 'ack')
  await b.wire.ping()
  assert.deepEqual(two.getEntries(), ['c', 'b'])
  await calls.find((event, entry) => event === 'added' && entry === 'c', 'c was added')
  await calls.find((event, entry) => event === 'removed' && entry === 'a', 'a was removed')
  const fresh = (await t.newer()).record.getList(name)
  await t.ready(fresh)
  fresh.addEntry('d')
  await t.until(() => two.getEntries().join() === 'c,b,d', 'd is there')
  one.delete()
  await bounded(new Promise((resolve) => two.once('delete', resolve)), () => 'delete')
})

suite.case('listening: found, accepted, hasProvider, removed', async (t) => {
  const [provider, a] = await t.logins(2)
  const base = t.name('live')
  const pattern = `^${base}/.*`
  const calls = t.calls('listen')
  provider.record.listen(pattern, (match, found, response) => {
    calls.fn(match, found)
    if (found) response.accept()
  })
  await provider.wire.line(`R|A|L|${pattern}`)
  const record = a.record.getRecord(`${base}/1`)
  const has = t.calls('hasProvider')
  record.on('hasProviderChanged', has.fn)
  await t.ready(record)
  assert.deepEqual(await calls.nth(1), [`${base}/1`, true])
  assert.deepEqual(await has.nth(1), [true])
  assert.equal(record.hasProvider, true)
  provider.record.unlisten(pattern)
  await provider.wire.line(`R|A|UL|${pattern}`)
  assert.deepEqual(await has.nth(2), [false])
})

suite.case('listening: the last subscriber goes, and a reject', async (t) => {
  const [provider, a] = await t.logins(2)
  const base = t.name('live')
  const calls = t.calls('listen')
  provider.record.listen(`^${base}/.*`, (match, found, response) => {
    calls.fn(match, found)
    if (found && match.endsWith('no')) response.reject()
    else if (found) response.accept()
  })
  await provider.wire.line(`R|A|L|^${base}/.*`)
  const record = await t.record(a, `${base}/1`)
  assert.deepEqual(await calls.nth(1), [`${base}/1`, true])
  await t.until(() => record.hasProvider, 'provider')
  record.discard()
  assert.deepEqual(await calls.nth(2), [`${base}/1`, false])
  const other = await t.record(a, `${base}/no`)
  await calls.nth(3)
  await provider.wire.ping()
  await a.wire.ping()
  assert.equal(other.hasProvider, false)
})

suite.case('listening with what is no pattern, twice, and not at all', async (t) => {
  const client = await t.login()
  client.record.listen('(', () => {})
  await client.wire.error('INVALID_LISTEN_REGEX')
  client.record.listen('a', () => {})
  client.record.listen('a', () => {})
  await client.wire.error('LISTENER_EXISTS')
  client.record.unlisten('b')
  await client.wire.error('NOT_LISTENING')
})

suite.case('record of 500 KB', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('large')
  const data = { rows: Array.from({ length: 5000 }, (_, id) => ({ id, text: 'x'.repeat(80) })) }
  const one = await t.record(a, name)
  await acked((callback) => one.set(data, callback))
  assert.deepEqual((await t.record(b, name)).get(), data)
})

suite.case('unusual names', async (t) => {
  const [a, b] = await t.logins(2)
  for (const base of ['ünï/çödé 😀', 'with space', '__proto__', 'a|b', '"quoted"', '[brackets].dot']) {
    const name = t.name(base)
    await bounded(a.record.setDataWithAck(name, { base }), () => 'ack')
    assert.deepEqual(await b.record.snapshot(name), { base })
    assert.equal(await b.record.has(name), true)
  }
})
