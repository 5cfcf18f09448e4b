/** A permission plugin that refuses names with "forbidden" and fails for names with "broken". */
import assert from 'node:assert/strict'
import { EVENT_ACTION as EA, PRESENCE_ACTION as PA, RECORD_ACTION as RA, RPC_ACTION as PC, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('permissions')

const forbidden = (t) => t.name('forbidden')

suite.case('event: subscription refused, others go on', async (t) => {
  const [a, b] = await t.logins(2)
  const [good, bad] = [t.name('allowed'), forbidden(t)]
  const calls = t.calls('events')
  b.event.subscribe(bad, calls.fn)
  await b.wire.error('MESSAGE_DENIED')
  b.event.subscribe(good, calls.fn)
  await b.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, good)
  a.event.emit(good, 1)
  await calls.nth(1)
})

suite.case('event: exactly the refused name of a list is left out', async (t) => {
  const raw = await t.rawLogin()
  const sender = await t.login()
  const [bad, one, two] = [forbidden(t), t.name('one'), t.name('two')]
  raw.send({ topic: TOPIC.EVENT, action: EA.SUBSCRIBE, names: [bad, one, two], correlationId: '8' })
  const error = await raw.message(TOPIC.EVENT, EA.MESSAGE_DENIED)
  assert.deepEqual(error, { topic: TOPIC.EVENT, action: EA.MESSAGE_DENIED, correlationId: '8', isError: true, name: bad, originalAction: EA.SUBSCRIBE })
  await raw.message(TOPIC.EVENT, EA.SUBSCRIBE)
  for (const name of [one, two]) sender.event.emit(name, name)
  for (const name of [one, two]) await raw.message(TOPIC.EVENT, EA.EMIT, { name })
}, { oracle: 'removes the last name of the list instead of the refused one' })

suite.case('event: no acknowledgement if nothing of the list is left', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: EA.SUBSCRIBE, names: [forbidden(t)], correlationId: '8' })
  await raw.message(TOPIC.EVENT, EA.MESSAGE_DENIED)
  await raw.ping()
  assert.deepEqual(raw.messages.list, [])
})

suite.case('event: emit refused', async (t) => {
  const client = await t.login()
  client.event.emit(forbidden(t), 1)
  await client.wire.error('MESSAGE_DENIED')
})

suite.case('event: a list of harmless names does not help an emit', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.EVENT, action: EA.EMIT, name: forbidden(t), names: [t.name('harmless')], data: '1' })
  await raw.message(TOPIC.EVENT, EA.MESSAGE_DENIED)
}, { oracle: 'checks the list and executes the name' })

suite.case('event: failing rule is answered MESSAGE_PERMISSION_ERROR', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('broken')
  raw.send({ topic: TOPIC.EVENT, action: EA.EMIT, name, data: '1' })
  const error = await raw.message(TOPIC.EVENT, EA.MESSAGE_PERMISSION_ERROR)
  assert.deepEqual([error.name, error.originalAction, error.isError], [name, EA.EMIT, true])
})

suite.case('event: listen refused', async (t) => {
  const raw = await t.rawLogin()
  const pattern = forbidden(t)
  raw.send({ topic: TOPIC.EVENT, action: EA.LISTEN, name: pattern })
  const error = await raw.message(TOPIC.EVENT, EA.MESSAGE_DENIED)
  assert.deepEqual([error.name, error.originalAction], [pattern, EA.LISTEN])
})

suite.case('rpc: make refused', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(client.rpc.make(forbidden(t), 1)), 'MESSAGE_DENIED')
  assert.equal(await rejection(client.rpc.make(t.name('broken'), 1)), 'MESSAGE_PERMISSION_ERROR')
})

suite.case('rpc: provide refused', async (t) => {
  const client = await t.login()
  client.rpc.provide(forbidden(t), () => {})
  await client.wire.error('MESSAGE_DENIED')
  assert.deepEqual(client.rpc.providerNames(), [])
})

suite.case('record: getRecord refused', async (t) => {
  const client = await t.login()
  const errors = t.calls('record error')
  const record = client.record.getRecord(forbidden(t))
  record.on('error', errors.fn)
  await errors.find((action) => action === 'MESSAGE_DENIED')
  assert.equal(record.isReady, false)
  await client.wire.error('MESSAGE_DENIED')
})

suite.case('record: refused and allowed records in one request', async (t) => {
  const client = await t.login()
  const bad = client.record.getRecord(forbidden(t))
  const good = await t.ready(client.record.getRecord(t.name('allowed')))
  await client.wire.error('MESSAGE_DENIED')
  good.set('a', 1)
  assert.equal(good.version, 1)
  assert.equal(bad.isReady, false)
}, { oracle: 'removes the last name of the list instead of the refused one' })

suite.case('record: snapshot, head and has refused', async (t) => {
  const client = await t.login()
  assert.equal(await rejection(client.record.snapshot(forbidden(t))), 'MESSAGE_DENIED')
  assert.equal(await rejection(client.record.head(forbidden(t))), 'MESSAGE_DENIED')
  assert.equal(await rejection(client.record.has(t.name('broken'))), 'MESSAGE_PERMISSION_ERROR')
})

suite.case('record: acknowledged write refused', async (t) => {
  const client = await t.login()
  const name = forbidden(t)
  assert.equal(await rejection(client.record.setDataWithAck(name, { a: 1 })), 'MESSAGE_DENIED')
  assert.equal(await rejection(client.record.setDataWithAck(name, 'a', 1)), 'MESSAGE_DENIED')
  assert.equal(await rejection(client.record.setDataWithAck(t.name('broken'), { a: 1 })), 'MESSAGE_PERMISSION_ERROR')
})

suite.case('record: a list of harmless names does not help a read', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.RECORD, action: RA.READ, name: forbidden(t), names: [t.name('harmless')] })
  await raw.message(TOPIC.RECORD, RA.MESSAGE_DENIED)
}, { oracle: 'checks the list and executes the name' })

suite.case('record: delete refused', async (t) => {
  const raw = await t.rawLogin()
  const name = forbidden(t)
  raw.send({ topic: TOPIC.RECORD, action: RA.DELETE, name })
  const error = await raw.message(TOPIC.RECORD, RA.MESSAGE_DENIED)
  assert.deepEqual([error.name, error.originalAction, error.isError], [name, RA.DELETE, true])
})

suite.case('presence: subscription and query of refused users', async (t) => {
  const client = await t.login()
  const [good, bad] = [client.user, forbidden(t)]
  client.presence.subscribe(bad, () => {})
  await client.wire.error('MESSAGE_DENIED')
  assert.equal(await rejection(client.presence.getAll([bad])), 'MESSAGE_DENIED')
  assert.deepEqual(await client.presence.getAll([good]), { [good]: true })
})

suite.case('messages of one connection stay in order with a slow permission', async (t) => {
  const [sender, receiver] = await t.logins(2)
  const base = t.name('order')
  const calls = t.calls('events')
  for (const suffix of ['slow', 'fast']) receiver.event.subscribe(`${base}/${suffix}`, calls.fn)
  await receiver.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, `${base}/fast`)
  for (let n = 0; n < 20; n++) sender.event.emit(`${base}/${n % 2 ? 'fast' : 'slow'}`, n)
  await calls.nth(20)
  assert.deepEqual(calls.firsts, Array.from({ length: 20 }, (_, n) => n))
}, { oracle: 'passes messages on in the order in which their permission checks end' })

suite.case('codes of the refusals', async (t) => {
  const raw = await t.rawLogin()
  const name = forbidden(t)
  const requests = [
    [TOPIC.RPC, PC.REQUEST, { name, correlationId: 'c', data: '1' }, PC.MESSAGE_DENIED],
    [TOPIC.RECORD, RA.NOTIFY, { names: [name], correlationId: 'c' }, RA.MESSAGE_DENIED],
    [TOPIC.RECORD, RA.SUBSCRIBE, { names: [name], correlationId: 'c' }, RA.MESSAGE_DENIED],
    [TOPIC.PRESENCE, PA.QUERY, { names: [name], correlationId: 'c' }, PA.MESSAGE_DENIED]
  ]
  for (const [topic, action, extra, expected] of requests) {
    raw.send({ topic, action, ...extra })
    const error = await raw.message(topic, expected)
    assert.deepEqual([error.originalAction, error.name, error.correlationId, error.isError], [action, name, 'c', true])
  }
})
