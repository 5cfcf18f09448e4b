/** What the server's configuration changes: hot path and excluded records, switched off features. */
import assert from 'node:assert/strict'
import { EVENT_ACTION, PARSER_ACTION, PRESENCE_ACTION, RECORD_ACTION as RA, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('options', {
  record: { storageHotPathPrefixes: ['hot/'], storageExclusionPrefixes: ['temporary/'] },
  enabledFeatures: { record: true, event: true, rpc: true, presence: false }
})

const RECORD = TOPIC.RECORD

suite.case('hot path: writes are acknowledged and always have version 0', async (t) => {
  const client = await t.login()
  const name = t.name('hot/record')
  await client.record.setDataWithAck(name, { a: 1 })
  await client.record.setDataWithAck(name, { a: 2 })
  assert.deepEqual(await client.record.snapshot(name), { a: 2 })
  assert.equal(await client.record.head(name), 0)
}, { oracle: 'acknowledges hot path writes without isWriteAck, so that the callback is never called' })

suite.case('hot path: subscribers get the new data', async (t) => {
  const [raw, writer] = [await t.rawLogin(), await t.login()]
  const name = t.name('hot/record')
  raw.send({ topic: RECORD, action: RA.SUBSCRIBECREATEANDREAD, names: [name], correlationId: '0' })
  await raw.message(RECORD, RA.READ_RESPONSE)
  writer.record.setData(name, { a: 1 })
  const update = await raw.message(RECORD, RA.UPDATE)
  assert.deepEqual([update.name, JSON.parse(update.data), update.correlationId], [name, { a: 1 }, undefined])
})

suite.case('hot path: patches are refused', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(client.record.setDataWithAck(t.name('hot/record'), 'a', 1)), 'INVALID_PATCH_ON_HOTPATH')
}, { oracle: 'answers without isWriteAck, so that the callback is never called' })

suite.case('excluded record works as any other while it is in the cache', async (t) => {
  const [a, b] = await t.logins(2)
  const name = t.name('temporary/record')
  await a.record.setDataWithAck(name, { a: 1 })
  const record = await t.ready(b.record.getRecord(name))
  assert.deepEqual(record.get(), { a: 1 })
  await record.setWithAck('b', 2)
  assert.deepEqual(await a.record.snapshot(name), { a: 1, b: 2 })
})

suite.case('excluded record is gone when the cache has forgotten it', async (t) => {
  const client = await t.login()
  const name = t.name('temporary/record')
  await client.record.setDataWithAck(name, { a: 1 })
  await client.record.notify([name])
  assert.equal(await client.record.has(name), false)
})

suite.case('switched off feature is an unknown topic', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.PRESENCE, action: PRESENCE_ACTION.QUERY_ALL })
  await raw.message(TOPIC.PARSER, PARSER_ACTION.UNKNOWN_TOPIC)
})

suite.case('slow reader of a record gets the newest state instead of all changes', async (t) => {
  const server = await t.server({ config: { websocket: { maxOutgoingBytes: 200000, slowConsumerPolicy: 'conflate' } } })
  const [writer, slow, witness] = await Promise.all([1, 2, 3].map(() => t.login({}, {}, server.url)))
  const name = t.name('conflate')
  const [written, read] = await Promise.all([writer, slow].map((client) => t.ready(client.record.getRecord(name))))
  const gone = t.calls('presence')
  witness.presence.subscribe(slow.user, gone.fn)
  await witness.wire.acked(TOPIC.PRESENCE, PRESENCE_ACTION.SUBSCRIBE, slow.user)
  slow.wire.socket._socket.pause()
  const filler = 'x'.repeat(60000)
  for (let n = 1; n <= 300; n++) {
    await written.setWithAck({ n, filler })
  }
  await witness.wire.ping()
  assert.equal(gone.list.length, 0, 'not closed')
  slow.wire.socket._socket.resume()
  await t.until(() => read.version === 300, 'the newest version')
  assert.equal(read.get('n'), 300)
  assert(slow.wire.messages(RECORD, RA.UPDATE).length < 300, 'changes were left out')
  await writer.record.setDataWithAck(name, 'n', 301)
  await t.until(() => read.get('n') === 301, 'changes go on')
}, { oracle: 'keeps everything for a client that does not read', limit: 30000 })

suite.case('collected output stays in order', async (t) => {
  const server = await t.server({ config: { websocket: { outgoingBufferTimeout: 20, maxBufferByteSize: 1000 } } })
  const [sender, receiver] = await Promise.all([1, 2].map(() => t.login({}, {}, server.url)))
  const name = t.name('buffer')
  const calls = t.calls('events')
  receiver.event.subscribe(name, calls.fn)
  await receiver.wire.acked(TOPIC.EVENT, EVENT_ACTION.SUBSCRIBE, name)
  for (let n = 0; n < 300; n++) sender.event.emit(name, n)
  await calls.nth(300)
  assert.deepEqual(calls.firsts, Array.from({ length: 300 }, (_, n) => n))
  const record = await t.ready(receiver.record.getRecord(t.name('buffer')))
  for (let n = 1; n <= 50; n++) sender.record.setData(record.name, 'n', n)
  await t.until(() => record.version === 50, 'version 50')
  assert.deepEqual(record.get(), { n: 50 })
})

suite.case('one login attempt', async (t) => {
  const server = await t.server({ config: { websocket: { maxAuthAttempts: 1 } } })
  const client = t.client({}, server.url)
  await rejection(client.login({ password: 'wrong' }))
  await client.wire.error('TOO_MANY_AUTH_ATTEMPTS')
  await t.until(() => client.wire.socket.readyState === 3, 'socket closed by the server')
})

suite.case('small messages only', async (t) => {
  const server = await t.server({ config: { websocket: { maxMessageSize: 1000 } } })
  const client = await t.login({}, {}, server.url)
  const name = t.name('small')
  await client.record.setDataWithAck(name, { text: 'x'.repeat(800) })
  client.record.setData(name, { text: 'x'.repeat(2000) })
  await t.until(() => client.wire.sockets.length === 2 && client.getConnectionState() === 'OPEN', 'closed and connected again')
  assert.deepEqual(await client.record.snapshot(name), { text: 'x'.repeat(800) })
}, { json: 'sends each value twice' })
