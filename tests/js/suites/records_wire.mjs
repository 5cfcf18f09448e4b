/** Records by hand: the fields of answers and broadcasts, refused writes, path grammar. */
import assert from 'node:assert/strict'
import { RECORD_ACTION as RA, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'

export const suite = new Suite('records_wire')

const RECORD = TOPIC.RECORD
const PATCH_MULTI = 35
/** Set fields only, without topic. */
const fields = ({ topic, ...rest }) => rest

const write = (raw, action, name, version, extra) => raw.send({ topic: RECORD, action, name, version, ...extra })

/** Subscribes, creating the record; resolves with the read response. */
async function subscribe (raw, name, correlationId = '0') {
  raw.send({ topic: RECORD, action: RA.SUBSCRIBECREATEANDREAD, names: [name], correlationId })
  return raw.message(RECORD, RA.READ_RESPONSE, { name })
}

async function read (raw, name) {
  raw.send({ topic: RECORD, action: RA.READ, name })
  const message = await raw.message(RECORD, RA.READ_RESPONSE, { name })
  return { version: message.version, data: JSON.parse(message.data) }
}

/** Writes and waits for the acknowledgement. */
async function apply (raw, action, name, version, extra) {
  const correlationId = `${name} ${version}`
  write(raw, action, name, version, { ...extra, isWriteAck: true, correlationId })
  await raw.message(RECORD, RA.WRITE_ACKNOWLEDGEMENT, { correlationId })
}

/** Creates a record with that data at version 1. */
const create = (raw, name, data) => apply(raw, RA.CREATEANDUPDATE, name, -1, { data: JSON.stringify(data) })

suite.case('subscribe: acknowledgement with names, then the read response', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('sub')
  raw.send({ topic: RECORD, action: RA.SUBSCRIBECREATEANDREAD, names: [name], correlationId: 'c' })
  await raw.messages.find((message) => message.action === RA.READ_RESPONSE, 'read response')
  const [ack, response] = raw.messages.list
  assert.deepEqual(fields(ack), { action: RA.SUBSCRIBECREATEANDREAD, correlationId: 'c', isAck: true, names: [name] })
  assert.deepEqual(fields(response), { action: RA.READ_RESPONSE, data: '{}', name, version: 0 })
})

suite.case('repeated subscription: MULTIPLE_SUBSCRIPTIONS and another read response', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('twice')
  await subscribe(raw, name)
  raw.send({ topic: RECORD, action: RA.SUBSCRIBECREATEANDREAD, names: [name], correlationId: '1' })
  const error = await raw.message(RECORD, RA.MULTIPLE_SUBSCRIPTIONS)
  assert.deepEqual(fields(error), { action: RA.MULTIPLE_SUBSCRIPTIONS, name, originalAction: RA.SUBSCRIBE })
  await raw.message(RECORD, RA.READ_RESPONSE, { name })
})

suite.case('subscribe without creating', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('no create')
  raw.send({ topic: RECORD, action: RA.SUBSCRIBEANDREAD, names: [name], correlationId: '0' })
  assert.deepEqual(fields(await raw.message(RECORD, RA.READ_RESPONSE)), { action: RA.READ_RESPONSE, data: '{}', name, version: -1 })
  const other = await t.rawLogin()
  await create(other, name, { a: 1 })
  assert.equal((await raw.message(RECORD, RA.UPDATE)).version, 1)
})

suite.case('subscribe and head', async (t) => {
  const raw = await t.rawLogin()
  const [known, missing] = [t.name('known'), t.name('missing')]
  await create(raw, known, { a: 1 })
  raw.send({ topic: RECORD, action: RA.SUBSCRIBEANDHEAD, names: [known, missing], correlationId: '7' })
  const bulk = await raw.message(RECORD, RA.HEAD_RESPONSE_BULK)
  assert.deepEqual({ ...bulk.versions }, { [known]: 1 })
  assert.deepEqual(fields(await raw.message(RECORD, RA.HEAD_RESPONSE)), { action: RA.HEAD_RESPONSE, name: missing, version: -1 })
  assert.deepEqual(fields(await raw.message(RECORD, RA.SUBSCRIBEANDHEAD)), { action: RA.SUBSCRIBEANDHEAD, correlationId: '7', isAck: true })
  const other = await t.rawLogin()
  write(other, RA.UPDATE, known, 2, { data: '{}' })
  await raw.message(RECORD, RA.UPDATE, { name: known, version: 2 })
})

suite.case('plain subscribe sends no data', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('plain')
  raw.send({ topic: RECORD, action: RA.SUBSCRIBE, names: [name], correlationId: '3' })
  assert.deepEqual(fields(await raw.message(RECORD, RA.SUBSCRIBE)), { action: RA.SUBSCRIBE, correlationId: '3', isAck: true })
  await raw.ping()
  assert.deepEqual(raw.messages.list, [])
})

suite.case('unsubscribe is acknowledged, also of names not subscribed', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: RECORD, action: RA.UNSUBSCRIBE, names: [t.name('never')], correlationId: 'u' })
  assert.deepEqual(fields(await raw.message(RECORD, RA.UNSUBSCRIBE)), { action: RA.UNSUBSCRIBE, correlationId: 'u', isAck: true })
})

suite.case('reading a missing record', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('missing')
  raw.send({ topic: RECORD, action: RA.READ, name })
  assert.deepEqual(fields(await raw.message(RECORD, RA.RECORD_NOT_FOUND)), { action: RA.RECORD_NOT_FOUND, isError: true, name, originalAction: RA.READ })
  raw.send({ topic: RECORD, action: RA.HEAD, name })
  assert.deepEqual(fields(await raw.message(RECORD, RA.HEAD_RESPONSE)), { action: RA.HEAD_RESPONSE, name, version: -1 })
})

suite.case('fields of an update broadcast', async (t) => {
  const [writer, reader] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('broadcast')
  await subscribe(reader, name)
  write(writer, RA.UPDATE, name, 1, { data: '{"a":1}', isWriteAck: true, correlationId: 'w' })
  assert.deepEqual(fields(await reader.message(RECORD, RA.UPDATE)), { action: RA.UPDATE, data: '{"a":1}', name, isWriteAck: false, version: 1 })
  assert.deepEqual(fields(await writer.message(RECORD, RA.WRITE_ACKNOWLEDGEMENT)), { action: RA.WRITE_ACKNOWLEDGEMENT, correlationId: 'w', name, isWriteAck: true })
})

suite.case('fields of a patch broadcast', async (t) => {
  const [writer, reader] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('broadcast')
  await subscribe(reader, name)
  write(writer, RA.PATCH, name, 1, { path: 'a.b', data: '"x"' })
  assert.deepEqual(fields(await reader.message(RECORD, RA.PATCH)), { action: RA.PATCH, data: '"x"', name, isWriteAck: false, path: 'a.b', version: 1 })
})

suite.case('erase is broadcast as a patch without data', async (t) => {
  const [writer, reader] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('broadcast')
  await create(writer, name, { a: 1, b: 2 })
  await subscribe(reader, name)
  write(writer, RA.ERASE, name, 2, { path: 'a' })
  assert.deepEqual(fields(await reader.message(RECORD, RA.PATCH)), { action: RA.PATCH, name, isWriteAck: false, path: 'a', version: 2 })
  assert.deepEqual(await read(reader, name), { version: 2, data: { b: 2 } })
})

suite.case('forced upsert is broadcast with the new version', async (t) => {
  const [writer, reader] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('forced')
  await subscribe(reader, name)
  write(writer, RA.CREATEANDPATCH, name, -1, { path: 'a', data: '1' })
  assert.equal((await reader.message(RECORD, RA.PATCH)).version, 1)
  write(writer, RA.CREATEANDUPDATE, name, -1, { data: '[1]' })
  assert.equal((await reader.message(RECORD, RA.UPDATE)).version, 2)
})

suite.case('no echo of a write to its sender', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('echo')
  await subscribe(raw, name)
  await raw.message(RECORD, RA.SUBSCRIBECREATEANDREAD)
  await apply(raw, RA.UPDATE, name, 1, { data: '{"a":1}' })
  assert.deepEqual(await read(raw, name), { version: 1, data: { a: 1 } })
  assert.deepEqual(raw.messages.list, [])
})

suite.case('conflict: VERSION_EXISTS with the current state, and the broadcast', async (t) => {
  const [first, second] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('conflict')
  await subscribe(first, name)
  await subscribe(second, name)
  write(first, RA.UPDATE, name, 1, { data: '{"from":"first"}', isWriteAck: true, correlationId: '1' })
  await first.message(RECORD, RA.WRITE_ACKNOWLEDGEMENT)
  write(second, RA.UPDATE, name, 1, { data: '{"from":"second"}', isWriteAck: true, correlationId: '9' })
  assert.equal((await second.message(RECORD, RA.UPDATE)).data, '{"from":"first"}')
  const error = await second.message(RECORD, RA.VERSION_EXISTS)
  assert.deepEqual(fields(error), {
    action: RA.VERSION_EXISTS, correlationId: '9', data: '{"from":"first"}', isWriteAck: true, name, originalAction: RA.UPDATE, version: 1
  })
  await first.ping()
  assert.deepEqual(first.messages.list.filter((message) => message.action === RA.UPDATE), [])
})

suite.case('conflict of a patch is reported as PATCH', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('conflict')
  await create(raw, name, { a: 1 })
  write(raw, RA.PATCH, name, 1, { path: 'a', data: '2' })
  const error = await raw.message(RECORD, RA.VERSION_EXISTS)
  assert.deepEqual([error.originalAction, error.version, JSON.parse(error.data)], [RA.PATCH, 1, { a: 1 }])
})

suite.case('version too high: INVALID_VERSION with the current version', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('gap')
  await create(raw, name, { a: 1 })
  write(raw, RA.UPDATE, name, 5, { data: '{"b":1}', isWriteAck: true, correlationId: 'gap' })
  const error = await raw.message(RECORD, RA.INVALID_VERSION)
  assert.deepEqual([error.name, error.version, error.originalAction, error.correlationId, error.isWriteAck, error.isError],
    [name, 1, RA.UPDATE, 'gap', true, true])
  assert.deepEqual(await read(raw, name), { version: 1, data: { a: 1 } })
}, { oracle: 'reports INVALID_VERSION without isError, so the client takes it for success' })

suite.case('forced and versioned writes in one burst', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('burst')
  await create(raw, name, {})
  write(raw, RA.PATCH, name, 2, { path: 'a', data: '1' })
  write(raw, RA.CREATEANDPATCH, name, -1, { path: 'b', data: '2' })
  write(raw, RA.PATCH, name, 4, { path: 'c', data: '3', isWriteAck: true, correlationId: 'last' })
  await raw.message(RECORD, RA.WRITE_ACKNOWLEDGEMENT, { correlationId: 'last' })
  assert.deepEqual(await read(raw, name), { version: 4, data: { a: 1, b: 2, c: 3 } })
}, { oracle: 'does not count forced writes when it checks the versions of a queue' })

for (const [label, action, extra] of [['update', RA.UPDATE, { data: '{}' }], ['patch', RA.PATCH, { path: 'a', data: '1' }], ['erase', RA.ERASE, { path: 'a' }]]) {
  suite.case(`${label} of a missing record`, async (t) => {
    const raw = await t.rawLogin()
    const name = t.name('missing')
    write(raw, action, name, 1, extra)
    const error = await raw.message(RECORD, RA.RECORD_UPDATE_ERROR)
    assert.deepEqual([error.name, error.isError], [name, true])
    raw.send({ topic: RECORD, action: RA.HEAD, name })
    assert.equal((await raw.message(RECORD, RA.HEAD_RESPONSE)).version, -1)
  })

  suite.case(`${label} of a missing record with acknowledgement`, async (t) => {
    const raw = await t.rawLogin()
    const name = t.name('missing')
    write(raw, action, name, 1, { ...extra, isWriteAck: true, correlationId: 'w' })
    const error = await raw.message(RECORD, RA.RECORD_UPDATE_ERROR)
    assert.deepEqual([error.name, error.isError, error.isWriteAck, error.correlationId], [name, true, true, 'w'])
  }, { oracle: 'a write acknowledgement turns any write into an upsert' })
}

const invalid = [
  ['update with text', RA.UPDATE, { data: '"text"' }],
  ['update with a number', RA.CREATEANDUPDATE, { data: '1' }],
  ['update with null', RA.UPDATE, { data: 'null' }]
]
for (const [label, action, extra] of invalid) {
  suite.case(`invalid data: ${label}`, async (t) => {
    const raw = await t.rawLogin()
    const name = t.name('invalid')
    await create(raw, name, { a: 1 })
    write(raw, action, name, 2, extra)
    const error = await raw.message(RECORD, RA.INVALID_MESSAGE_DATA)
    assert.deepEqual([error.name, error.originalAction], [name, RA.UPDATE])
    assert.deepEqual(await read(raw, name), { version: 1, data: { a: 1 } })
  })
}

suite.case('invalid data: no JSON, with acknowledgement', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('invalid')
  await create(raw, name, { a: 1 })
  write(raw, RA.UPDATE, name, 2, { data: '{"a":', isWriteAck: true, correlationId: 'w' })
  const error = await raw.message(RECORD, RA.INVALID_MESSAGE_DATA)
  assert.deepEqual([error.name, error.originalAction, error.isError, error.isWriteAck, error.correlationId], [name, RA.UPDATE, true, true, 'w'])
  assert.deepEqual(await read(raw, name), { version: 1, data: { a: 1 } })
}, { oracle: 'answers without the fields that reach the callback, or crashes' })

for (const path of ['', '.', '[0]', 'a[', 'a]', 'a[]', 'a[-1]', 'a[1.5]', 'a[x]', 'a[0]b', 'a[100000000]', '__proto__', 'a.constructor.x', 'list.name']) {
  suite.case(`invalid path ${JSON.stringify(path)}`, async (t) => {
    const raw = await t.rawLogin()
    const name = t.name('path')
    await create(raw, name, { list: [1, 2, 3] })
    write(raw, RA.PATCH, name, 2, { path, data: '1', isWriteAck: true, correlationId: 'p' })
    const error = await raw.message(RECORD, RA.INVALID_MESSAGE_DATA)
    assert.deepEqual([error.name, error.originalAction, error.isError, error.isWriteAck, error.correlationId], [name, RA.PATCH, true, true, 'p'])
    assert.deepEqual(await read(raw, name), { version: 1, data: { list: [1, 2, 3] } })
  }, { oracle: 'accepts most such paths' })
}

const paths = [
  ['a[2]', {}, 'x', { a: [null, null, 'x'] }],
  ['a.0', {}, 1, { a: { 0: 1 } }],
  ['a.1', { a: [1, 2] }, 9, { a: [1, 9] }],
  ['a[0]', { a: { x: 1 } }, 9, { a: { 0: 9, x: 1 } }],
  ['a.b', { a: 3 }, 1, { a: { b: 1 } }],
  [' a . b[ 1 ] ', {}, 1, { a: { b: [null, 1] } }],
  ['a..b.', {}, 1, { a: { b: 1 } }]
]
for (const [path, before, value, after] of paths) {
  suite.case(`path ${JSON.stringify(path)} on ${JSON.stringify(before)}`, async (t) => {
    const raw = await t.rawLogin()
    const name = t.name('path')
    await create(raw, name, before)
    await apply(raw, RA.PATCH, name, 2, { path, data: JSON.stringify(value) })
    assert.deepEqual(await read(raw, name), { version: 2, data: after })
  })
}

suite.case('path through null replaces it', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('path')
  await create(raw, name, { a: null })
  write(raw, RA.PATCH, name, 2, { path: 'a.b', data: '1' })
  assert.deepEqual(await read(raw, name), { version: 2, data: { a: { b: 1 } } })
}, { oracle: 'a null on the way ends the process' })

suite.case('erase inside arrays and of missing paths', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('erase')
  await create(raw, name, { a: [1, 2, 3] })
  await apply(raw, RA.ERASE, name, 2, { path: 'a[1]' })
  await apply(raw, RA.ERASE, name, 3, { path: 'x.y' })
  assert.deepEqual(await read(raw, name), { version: 3, data: { a: [1, null, 3], x: {} } })
})

suite.case('patch of several paths: one version, and a full update to the older client', async (t) => {
  const raw = await t.rawLogin()
  const client = await t.login()
  const name = t.name('multi')
  const record = await t.ready(client.record.getRecord(name))
  const changes = t.calls('subscription')
  record.subscribe(changes.fn)
  write(raw, PATCH_MULTI, name, 1, {
    data: JSON.stringify([{ path: 'a.b', data: 1 }, { path: 'c[0]', data: 'x' }]), isWriteAck: true, correlationId: 'm'
  })
  await raw.message(RECORD, RA.WRITE_ACKNOWLEDGEMENT, { correlationId: 'm' })
  assert.deepEqual(await changes.nth(1), [{ a: { b: 1 }, c: ['x'] }])
  assert.equal(record.version, 1)
  write(raw, PATCH_MULTI, name, 2, { data: JSON.stringify([{ path: 'a.b' }, { path: 'd', data: null }]) })
  assert.deepEqual(await read(raw, name), { version: 2, data: { a: {}, c: ['x'], d: null } })
}, { oracle: 'this version does not have the action' })

suite.case('patch of several paths is all or nothing', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('multi')
  await create(raw, name, { a: 1 })
  for (const data of ['[{"path":"b","data":1},{"path":"[","data":1}]', '[]', '{}', '[{"data":1}]', '[1]']) {
    write(raw, PATCH_MULTI, name, 2, { data, isWriteAck: true, correlationId: data })
    const error = await raw.message(RECORD, RA.INVALID_MESSAGE_DATA, { correlationId: data })
    assert.deepEqual([error.originalAction, error.isError, error.isWriteAck], [PATCH_MULTI, true, true])
  }
  assert.deepEqual(await read(raw, name), { version: 1, data: { a: 1 } })
}, { oracle: 'this version does not have the action' })

suite.case('delete: answers to everybody', async (t) => {
  const [raw, other] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('delete')
  await subscribe(raw, name)
  await subscribe(other, name)
  raw.send({ topic: RECORD, action: RA.DELETE, name })
  assert.deepEqual(fields(await raw.message(RECORD, RA.DELETE_SUCCESS)), { action: RA.DELETE_SUCCESS, name })
  assert.deepEqual(fields(await other.message(RECORD, RA.DELETED)), { action: RA.DELETED, name })
  await create(raw, name, { again: true })
  await other.ping()
  assert.deepEqual(other.messages.list.filter((message) => message.action === RA.UPDATE), [], 'unsubscribed by the delete')
})

suite.case('delete of a missing record succeeds', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('missing')
  raw.send({ topic: RECORD, action: RA.DELETE, name })
  await raw.message(RECORD, RA.DELETE_SUCCESS, { name })
})

suite.case('notify reaches all subscribers, sender included', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('notify')
  await create(raw, name, { a: 1 })
  await subscribe(raw, name)
  raw.send({ topic: RECORD, action: RA.NOTIFY, names: [name], correlationId: 'n' })
  const update = await raw.message(RECORD, RA.UPDATE)
  assert.deepEqual([update.name, update.version, JSON.parse(update.data)], [name, 1, { a: 1 }])
  assert.deepEqual(fields(await raw.message(RECORD, RA.NOTIFY)), { action: RA.NOTIFY, correlationId: 'n', isAck: true, names: [name] })
})

suite.case('notify without names is acknowledged', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: RECORD, action: RA.NOTIFY, names: [], correlationId: 'n' })
  assert.equal((await raw.message(RECORD, RA.NOTIFY)).correlationId, 'n')
}, { oracle: 'never answers an empty list' })

suite.case('name missing: INVALID_MESSAGE_DATA', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: RECORD, action: RA.READ })
  const error = await raw.message(RECORD, RA.INVALID_MESSAGE_DATA)
  assert.deepEqual([error.originalAction, error.isError], [RA.READ, true])
}, { oracle: 'does not check the types of fields' })

suite.case('writes and reads of one connection take effect in order', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('order')
  await create(raw, name, { n: 0 })
  for (let n = 1; n <= 50; n++) {
    write(raw, RA.PATCH, name, n + 1, { path: 'n', data: String(n) })
    raw.send({ topic: RECORD, action: RA.READ, name })
  }
  for (let n = 1; n <= 50; n++) {
    const response = await raw.message(RECORD, RA.READ_RESPONSE)
    assert.deepEqual([response.version, JSON.parse(response.data)], [n + 1, { n }])
  }
}, { oracle: 'a read may overtake writes and show new data with an old version' })
