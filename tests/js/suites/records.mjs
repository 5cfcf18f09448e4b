/** Records with the client: reading, writing, subscribing, deleting, anonymous records. */
import assert from 'node:assert/strict'
import { RECORD_ACTION, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('records')

/** The same record, ready at every client. */
const open = (t, clients, name) => Promise.all(clients.map((client) => t.ready(client.record.getRecord(name))))

/** Resolves when the record has that version. */
async function version (t, record, wanted) {
  await t.until(() => record.version >= wanted, `version ${wanted} of ${record.name}, now ${record.version}`)
  assert.equal(record.version, wanted)
}

suite.case('new record is empty and has version 0', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('new'))
  assert.deepEqual({ ...record.get() }, {})
  assert.equal(record.version, 0)
})

suite.case('set whole record reaches the other client', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('whole'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  const data = { name: 'x', list: [1, 2, { three: null }], nested: { deep: { er: true } } }
  a.set(data)
  assert.deepEqual(await changes.nth(1), [data])
  assert.equal(b.version, 1)
})

suite.case('set path', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('path'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.set('person.name', 'Ada')
  a.set('person.age', 36)
  assert.deepEqual(await changes.nth(2), [{ person: { name: 'Ada', age: 36 } }])
  assert.equal(b.get('person.name'), 'Ada')
  assert.equal(b.version, 2)
})

suite.case('set path inside arrays', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('arrays'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  a.set('rows[0].cells[1]', 'x')
  a.set('rows[0].cells[0]', 'y')
  assert.deepEqual(await changes.nth(2), [{ rows: [{ cells: ['y', 'x'] }] }])
})

suite.case('falsy values at a path', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('falsy'))
  a.set({ a: 1, b: 1, c: 1, d: 1 })
  for (const [key, value] of [['a', 0], ['b', false], ['c', ''], ['d', null]]) a.set(key, value)
  await version(t, b, 5)
  assert.deepEqual(b.get(), { a: 0, b: false, c: '', d: null })
  assert.deepEqual(await clients[1].record.snapshot(b.name), { a: 0, b: false, c: '', d: null })
})

suite.case('erase', async (t) => {
  const clients = await t.logins(3)
  const [a, b] = await open(t, clients.slice(0, 2), t.name('erase'))
  a.set({ keep: 1, gone: { x: 1, y: 2 } })
  a.erase('gone.x')
  await version(t, b, 2)
  assert.deepEqual(b.get(), { keep: 1, gone: { y: 2 } })
  assert.deepEqual(await clients[2].record.snapshot(a.name), { keep: 1, gone: { y: 2 } })
})

suite.case('set path to undefined erases', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('undefined'))
  a.set({ keep: 1, gone: 2 })
  a.set('gone', undefined)
  await version(t, b, 2)
  assert.deepEqual(b.get(), { keep: 1 })
})

suite.case('whole set replaces, it does not merge', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('replace'))
  a.set({ one: 1 })
  a.set({ two: 2 })
  await version(t, b, 2)
  assert.deepEqual(b.get(), { two: 2 })
})

suite.case('no message if nothing changes', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('same'))
  await record.setWithAck({ a: 1 })
  record.set({ a: 1 })
  record.set('a', 1)
  await record.setWithAck('a', 1)
  assert.equal(record.version, 1)
})

suite.case('writes before the record is ready become one update', async (t) => {
  const client = await t.login()
  const record = client.record.getRecord(t.name('early'))
  record.set('a', 1)
  record.set('b.c', 2)
  await t.ready(record)
  await version(t, record, 1)
  await client.wire.ping()
  const other = await t.login()
  assert.deepEqual(await t.until(async () => {
    const data = await other.record.snapshot(record.name)
    return data.a ? data : null
  }, 'data stored'), { a: 1, b: { c: 2 } })
})

suite.case('subscribe to the whole record', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('all'))
  const changes = t.calls('subscription')
  b.subscribe(changes.fn)
  for (let n = 1; n <= 5; n++) a.set('n', n)
  await changes.nth(5)
  assert.deepEqual(changes.firsts, [1, 2, 3, 4, 5].map((n) => ({ n })))
})

suite.case('subscribe to a path is called for that path only', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('subpath'))
  const changes = t.calls('subscription')
  b.subscribe('person.name', changes.fn)
  a.set('person.age', 1)
  a.set('person.name', 'x')
  a.set('other', 1)
  a.set({ person: { name: 'y' } })
  await version(t, b, 4)
  assert.deepEqual(changes.firsts, ['x', 'y'])
})

suite.case('subscribe with triggerNow', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('now'))
  record.set({ a: 1 })
  const changes = t.calls('subscription')
  record.subscribe(changes.fn, true)
  assert.deepEqual(await changes.nth(1), [{ a: 1 }])
})

suite.case('subscribe to a path with triggerNow', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('now'))
  record.set({ a: { b: [3] } })
  const changes = t.calls('subscription')
  record.subscribe('a.b[0]', changes.fn, true)
  assert.deepEqual(await changes.nth(1), [3])
})

suite.case('existing data triggers a subscription made before the record was ready', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('existing')
  await a.record.setDataWithAck(name, { x: 1 })
  const changes = t.calls('subscription')
  b.record.getRecord(name).subscribe('x', changes.fn)
  assert.deepEqual(await changes.nth(1), [1])
})

suite.case('unsubscribe', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('unsubscribe'))
  const [all, path, stays] = [t.calls('all'), t.calls('path'), t.calls('stays')]
  b.subscribe(all.fn)
  b.subscribe('n', path.fn)
  b.subscribe('n', stays.fn)
  b.unsubscribe(all.fn)
  b.unsubscribe('n', path.fn)
  a.set('n', 1)
  await stays.nth(1)
  assert.deepEqual([all.list.length, path.list.length], [0, 0])
})

suite.case('two clients write in turn and stay equal', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('turns'))
  for (let n = 1; n <= 20; n++) {
    const [writer, reader] = n % 2 ? [a, b] : [b, a]
    writer.set(`k${n}`, n)
    await version(t, reader, n)
  }
  assert.deepEqual(a.get(), b.get())
})

suite.case('versions grow by one, update by update', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('versions'))
  for (let n = 1; n <= 200; n++) a.set('n', n)
  await version(t, b, 200)
  const versions = clients[1].wire.messages(TOPIC.RECORD, RECORD_ACTION.PATCH).map((message) => message.version)
  assert.deepEqual(versions, Array.from({ length: 200 }, (_, n) => n + 1))
  assert.equal(await (await t.login()).record.head(a.name), 200)
})

suite.case('twenty subscribers see every change', async (t) => {
  const [writer, ...readers] = await open(t, await t.logins(21), t.name('fanout'))
  for (let n = 1; n <= 10; n++) writer.set('n', n)
  for (const reader of readers) {
    await version(t, reader, 10)
    assert.deepEqual(reader.get(), { n: 10 })
  }
})

suite.case('two records of one client share the subscription', async (t) => {
  const client = await t.login()
  const name = t.name('shared')
  const [one, two] = [client.record.getRecord(name), client.record.getRecord(name)]
  await Promise.all([t.ready(one), t.ready(two)])
  one.set('a', 1)
  assert.equal(two.get('a'), 1)
  assert.equal(client.wire.messages(TOPIC.RECORD, RECORD_ACTION.READ_RESPONSE).length, 1)
})

suite.case('a hundred records in one subscription request', async (t) => {
  const [a, b] = await t.logins(2)
  const base = t.name('bulk')
  const names = Array.from({ length: 100 }, (_, n) => `${base}/${n}`)
  await Promise.all(names.map((name, n) => a.record.setDataWithAck(name, { n })))
  const records = await Promise.all(names.map((name) => t.ready(b.record.getRecord(name))))
  assert.deepEqual(records.map((record) => record.get('n')), names.map((_, n) => n))
  assert.equal((await b.wire.request(TOPIC.RECORD, RECORD_ACTION.SUBSCRIBECREATEANDREAD, names[0])).names.length, 100)
})

suite.case('setWithAck of the whole record and of a path', async (t) => {
  const [client, other] = await t.logins(2)
  const [record] = await open(t, [client], t.name('ack'))
  await record.setWithAck({ a: 1 })
  assert.deepEqual(await other.record.snapshot(record.name), { a: 1 })
  await record.setWithAck('b', [2])
  assert.deepEqual(await other.record.snapshot(record.name), { a: 1, b: [2] })
})

suite.case('setWithAck with a callback', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('ack'))
  const calls = t.calls('write ack')
  record.set({ a: 1 }, calls.fn)
  assert.equal((await calls.nth(1))[0], null)
  record.setWithAck('a', 2, calls.fn)
  assert.equal((await calls.nth(2))[0], null)
})

suite.case('eraseWithAck', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('ack'))
  await record.setWithAck({ a: 1, b: 2 })
  await record.eraseWithAck('a')
  assert.deepEqual(await (await t.login()).record.snapshot(record.name), { b: 2 })
})

suite.case('a hundred acknowledged writes at once', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('ack'))
  await Promise.all(Array.from({ length: 100 }, (_, n) => record.setWithAck(`k${n}`, n)))
  assert.equal(Object.keys(await (await t.login()).record.snapshot(record.name)).length, 100)
})

suite.case('acknowledged writes of two clients to two records', async (t) => {
  const [a, b] = await t.logins(2)
  const [ra] = await open(t, [a], t.name('one'))
  const [rb] = await open(t, [b], t.name('two'))
  await Promise.all([1, 2, 3, 4, 5].flatMap((n) => [ra.setWithAck('n', n), rb.setWithAck('n', -n)]))
  assert.deepEqual([ra.get('n'), rb.get('n')], [5, -5])
})

suite.case('setData creates a record', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('create')
  a.record.setData(name, { a: 1 })
  await t.until(() => b.record.has(name), 'record exists')
  assert.deepEqual(await b.record.snapshot(name), { a: 1 })
  assert.equal(await b.record.head(name), 1)
})

suite.case('setData with a path creates a record', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('create')
  a.record.setData(name, 'x.y[1]', 'z')
  await t.until(() => b.record.has(name), 'record exists')
  assert.deepEqual(await b.record.snapshot(name), { x: { y: [null, 'z'] } })
})

suite.case('setData on a record that others use', async (t) => {
  const [a, b] = await t.logins(2)
  const [record] = await open(t, [b], t.name('used'))
  record.set({ a: 1, b: 1 })
  await version(t, record, 1)
  const changes = t.calls('subscription')
  record.subscribe(changes.fn)
  await b.wire.ping()
  await a.record.setDataWithAck(record.name, 'a', 2)
  assert.deepEqual(await changes.nth(1), [{ a: 2, b: 1 }])
  a.record.setData(record.name, { whole: true })
  assert.deepEqual(await changes.nth(2), [{ whole: true }])
  assert.equal(record.version, 3)
})

suite.case('setDataWithAck', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('ack')
  await a.record.setDataWithAck(name, { a: { b: 1 } })
  await a.record.setDataWithAck(name, 'a.c', 2)
  assert.deepEqual(await b.record.snapshot(name), { a: { b: 1, c: 2 } })
  assert.equal(await b.record.head(name), 2)
})

suite.case('setDataWithAck with a callback', async (t) => {
  const client = await t.login()
  const calls = t.calls('write ack')
  client.record.setDataWithAck(t.name('ack'), { a: 1 }, calls.fn)
  assert.equal((await calls.nth(1))[0], null)
})

suite.case('setDataWithAck of an undefined value erases', async (t) => {
  const client = await t.login()
  const name = t.name('ack')
  await client.record.setDataWithAck(name, { a: 1, b: 2 })
  await client.record.setDataWithAck(name, 'a', undefined)
  assert.deepEqual(await client.record.snapshot(name), { b: 2 })
})

suite.case('erase of a missing record with acknowledgement is refused', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(client.record.setDataWithAck(t.name('missing'), 'a', undefined)), 'RECORD_UPDATE_ERROR')
  await client.wire.ping()
}, { oracle: 'a write acknowledgement turns any write into an upsert' })

suite.case('setData of a loaded record goes through the record', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('loaded'))
  client.record.setData(record.name, { a: 1 })
  assert.deepEqual(record.get(), { a: 1 })
  assert.equal(record.version, 1)
  await client.record.setDataWithAck(record.name, 'a', 2)
  assert.equal(record.version, 2)
})

suite.case('forced writes of many clients are all applied', async (t) => {
  const clients = await t.logins(10)
  const name = t.name('forced')
  await Promise.all(clients.flatMap((client, c) => [0, 1, 2].map((n) => client.record.setDataWithAck(name, `c${c}.n${n}`, n))))
  const data = await clients[0].record.snapshot(name)
  assert.equal(await clients[0].record.head(name), 30)
  for (let c = 0; c < 10; c++) assert.deepEqual(data[`c${c}`], { n0: 0, n1: 1, n2: 2 })
})

suite.case('many clients create one record at the same time', async (t) => {
  const clients = await t.logins(10)
  const records = await open(t, clients, t.name('race'))
  records[0].set('a', 1)
  for (const record of records) {
    await version(t, record, 1)
    assert.deepEqual(record.get(), { a: 1 })
  }
})

suite.case('snapshot', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('snapshot')
  await a.record.setDataWithAck(name, { list: [1, 'zwei', null] })
  assert.deepEqual(await b.record.snapshot(name), { list: [1, 'zwei', null] })
  const calls = t.calls('snapshot')
  b.record.snapshot(name, calls.fn)
  assert.deepEqual((await calls.nth(1)).slice(0, 2), [null, { list: [1, 'zwei', null] }])
})

suite.case('snapshot of a missing record', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(client.record.snapshot(t.name('missing'))), 'RECORD_NOT_FOUND')
})

suite.case('snapshot of a loaded record is local', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('local'))
  record.set({ a: 1 })
  assert.deepEqual(await client.record.snapshot(record.name), { a: 1 })
  assert.equal(client.wire.sent.list.filter((message) => message.action === RECORD_ACTION.READ).length, 0)
})

suite.case('parallel snapshots and heads share one answer', async (t) => {
  const client = await t.login()
  const name = t.name('parallel')
  await client.record.setDataWithAck(name, { a: 1 })
  const results = await Promise.all([1, 2, 3].flatMap(() => [client.record.snapshot(name), client.record.head(name)]))
  assert.deepEqual(results, [{ a: 1 }, 1, { a: 1 }, 1, { a: 1 }, 1])
})

suite.case('a hundred snapshots of a hundred records', async (t) => {
  const client = await t.login()
  const base = t.name('many')
  const names = Array.from({ length: 100 }, (_, n) => `${base}/${n}`)
  await Promise.all(names.map((name, n) => client.record.setDataWithAck(name, { n })))
  assert.deepEqual(await Promise.all(names.map((name) => client.record.snapshot(name))), names.map((_, n) => ({ n })))
})

suite.case('has', async (t) => {
  const client = await t.login()
  const name = t.name('has')
  assert.equal(await client.record.has(name), false)
  await client.record.setDataWithAck(name, {})
  assert.equal(await client.record.has(name), true)
})

suite.case('head', async (t) => {
  const client = await t.login()
  const name = t.name('head')
  assert.equal(await client.record.head(name), -1)
  await client.record.setDataWithAck(name, { n: 1 })
  assert.equal(await client.record.head(name), 1)
  await client.record.setDataWithAck(name, { n: 2 })
  assert.equal(await client.record.head(name), 2)
})

suite.case('delete', async (t) => {
  const clients = await t.logins(3)
  const [a, b] = await open(t, clients.slice(0, 2), t.name('delete'))
  const deleted = t.calls('delete event')
  b.on('delete', deleted.fn)
  await a.setWithAck({ x: 1 })
  await a.delete()
  await deleted.nth(1)
  assert.equal(await clients[2].record.has(a.name), false)
  assert.equal(await rejection(clients[2].record.snapshot(a.name)), 'RECORD_NOT_FOUND')
})

suite.case('delete with a callback', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('delete'))
  const calls = t.calls('delete')
  record.delete(calls.fn)
  assert.deepEqual(await calls.nth(1), [null])
})

suite.case('record is new after a delete', async (t) => {
  const clients = await t.logins(2)
  const [a, b] = await open(t, clients, t.name('reborn'))
  const deleted = t.calls('delete event')
  b.on('delete', deleted.fn)
  await a.setWithAck({ x: 1 })
  await a.delete()
  await deleted.nth(1)
  const [again, other] = await open(t, clients, a.name)
  assert.deepEqual([again.version, { ...again.get() }], [0, {}])
  again.set('y', 1)
  await version(t, other, 1)
  assert.deepEqual(other.get(), { y: 1 })
})

suite.case('delete of a record nobody has written', async (t) => {
  const client = await t.login()
  const [record] = await open(t, [client], t.name('empty'))
  await record.delete()
  assert.equal(await client.record.head(record.name), -1)
})

suite.case('discard ends the subscription', async (t) => {
  const a = await t.login()
  const b = await t.login({}, { recordDiscardTimeout: 10 })
  const [ra, rb] = await open(t, [a, b], t.name('discard'))
  const discarded = t.calls('discard event')
  rb.on('discard', discarded.fn)
  rb.discard()
  await b.wire.acked(TOPIC.RECORD, RECORD_ACTION.UNSUBSCRIBE, ra.name)
  await discarded.nth(1)
  await ra.setWithAck({ x: 1 })
  await b.wire.ping()
  assert.deepEqual(b.wire.messages(TOPIC.RECORD, RECORD_ACTION.UPDATE), [])
  const [again] = await open(t, [b], ra.name)
  assert.deepEqual(again.get(), { x: 1 })
})

suite.case('getRecord within the discard time keeps the subscription', async (t) => {
  const [a, b] = await t.logins(2)
  const [ra, rb] = await open(t, [a, b], t.name('kept'))
  rb.discard()
  const [again] = await open(t, [b], ra.name)
  ra.set({ x: 1 })
  await version(t, again, 1)
  assert.equal(b.wire.sent.list.filter((message) => message.action === RECORD_ACTION.UNSUBSCRIBE).length, 0)
})

suite.case('record of 500 KB', async (t) => {
  const clients = await t.logins(3)
  const [a, b] = await open(t, clients.slice(0, 2), t.name('big'))
  const data = { rows: Array.from({ length: 5000 }, (_, n) => ({ id: n, text: `row ${n} `.padEnd(70, 'ü') })) }
  assert(JSON.stringify(data).length > 450000)
  await a.setWithAck(data)
  await version(t, b, 1)
  assert.deepEqual(b.get(), data)
  a.set('rows[2500].text', 'changed')
  await version(t, b, 2)
  assert.equal(b.get('rows[2500].text'), 'changed')
  data.rows[2500].text = 'changed'
  assert.deepEqual(await clients[2].record.snapshot(a.name), data)
}, { json: 'sends each value twice, so the message is too large' })

suite.case('unicode in names, keys, paths and values', async (t) => {
  const clients = await t.logins(3)
  const [a, b] = await open(t, clients.slice(0, 2), t.name('größe/日本語/😀'))
  a.set({ 'ключ': 'значение', emoji: '👩‍👩‍👧', escape: '\u0000\u001f\\"/\u2028' })
  a.set('ключ2.日本', '😀')
  await version(t, b, 2)
  assert.deepEqual(b.get(), a.get())
  assert.deepEqual(await clients[2].record.snapshot(a.name), a.get())
})

suite.case('numbers survive', async (t) => {
  const client = await t.login()
  const name = t.name('numbers')
  const data = { n: [0, 0.1, 1e-7, 1e21, 1.7976931348623157e308, 5e-324, 9007199254740991, -9007199254740991, 123456789.123456789] }
  await client.record.setDataWithAck(name, data)
  assert.deepEqual(await client.record.snapshot(name), data)
  await client.record.setDataWithAck(name, 'm', 1e100)
  assert.deepEqual(await client.record.snapshot(name), { ...data, m: 1e100 })
})

suite.case('order of keys survives writes and patches', async (t) => {
  const client = await t.login()
  const name = t.name('keys')
  await client.record.setDataWithAck(name, { z: 1, a: { y: 1, b: 2 }, m: 3 })
  await client.record.setDataWithAck(name, 'a.c', 3)
  const snapshot = await client.record.snapshot(name)
  assert.equal(JSON.stringify(snapshot), '{"z":1,"a":{"y":1,"b":2,"c":3},"m":3}')
})

suite.case('deeply nested data', async (t) => {
  const client = await t.login()
  const name = t.name('deep')
  let data = { leaf: true }
  for (let n = 0; n < 100; n++) data = { n: data }
  await client.record.setDataWithAck(name, data)
  assert.deepEqual(await client.record.snapshot(name), data)
})

suite.case('array as the whole record', async (t) => {
  const [a, b] = await open(t, await t.logins(2), t.name('array'))
  a.set(['x', { y: 1 }])
  await version(t, b, 1)
  assert.deepEqual(b.get(), ['x', { y: 1 }])
})

suite.case('record names that look special', async (t) => {
  const [a, b] = await t.logins(2)
  for (const name of ['__proto__', 'constructor', 'a b', 'x'.repeat(1000), '../../etc/passwd', '%00', "o'clock; drop table records"]) {
    await a.record.setDataWithAck(name, { name })
    assert.deepEqual(await b.record.snapshot(name), { name })
  }
})

suite.case('read only client', async (t) => {
  const a = await t.login()
  const b = await t.login({}, { recordReadOnlyMode: true })
  const name = t.name('readonly')
  const missing = await t.ready(b.record.getRecord(name))
  assert.equal(missing.version, -1)
  assert.equal(await a.record.has(name), false, 'reading did not create it')
  const other = t.name('readonly')
  await a.record.setDataWithAck(other, { a: 1 })
  const [record] = await open(t, [b], other)
  await a.record.setDataWithAck(other, 'a', 2)
  await version(t, record, 2)
  assert.deepEqual(record.get(), { a: 2 })
})

suite.case('anonymous record follows its name', async (t) => {
  const [a, b] = await t.logins(2)
  const [one, two] = [t.name('one'), t.name('two')]
  await a.record.setDataWithAck(one, { who: 'one' })
  await a.record.setDataWithAck(two, { who: 'two' })
  const record = b.record.getAnonymousRecord()
  const [names, changes] = [t.calls('nameChanged'), t.calls('subscription')]
  record.on('nameChanged', names.fn)
  record.subscribe('who', changes.fn, true)
  await record.setName(one)
  await changes.find((who) => who === 'one')
  assert.equal(record.get('who'), 'one')
  await record.setName(two)
  await changes.find((who) => who === 'two')
  assert.deepEqual(names.firsts, [one, two])
  await a.record.setDataWithAck(two, 'who', 'changed')
  await changes.find((who) => who === 'changed')
})

suite.case('anonymous record writes', async (t) => {
  const [a, b] = await t.logins(2)
  const record = a.record.getAnonymousRecord()
  const name = t.name('anonymous')
  await record.setName(name)
  record.set({ a: 1 })
  await record.setWithAck('b', 2)
  assert.equal(record.version, 2)
  assert.deepEqual(await b.record.snapshot(name), { a: 1, b: 2 })
  await record.setWithAck('a', undefined)
  assert.deepEqual(await b.record.snapshot(name), { b: 2 })
})

suite.case('anonymous record of a deleted record', async (t) => {
  const [a, b] = await t.logins(2)
  const anonymous = a.record.getAnonymousRecord()
  const name = t.name('anonymous')
  await anonymous.setName(name)
  await anonymous.setWithAck({ a: 1 })
  await anonymous.delete()
  assert.equal(await b.record.has(name), false)
})

suite.case('notify', async (t) => {
  const [a, b] = await t.logins(2)
  const [record] = await open(t, [b], t.name('notify'))
  await record.setWithAck({ a: 1 })
  const from = b.wire.count
  await a.record.notify([record.name, t.name('missing')])
  const update = await b.wire.message(TOPIC.RECORD, RECORD_ACTION.UPDATE, { name: record.name }, from)
  assert.deepEqual([update.version, update.parsedData], [1, { a: 1 }])
})

suite.case('notify of a missing record', async (t) => {
  const client = await t.login()
  await client.record.notify([t.name('missing')])
  await client.wire.ping()
})
