/** What the server's configuration changes: hot path and excluded records, switched off features. */
import assert from 'node:assert/strict'
import { PARSER_ACTION, PRESENCE_ACTION, RECORD_ACTION as RA, TOPIC } from '../lib/client.mjs'
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
