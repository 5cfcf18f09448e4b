/** Lost connections: broken ones, and servers that stop, crash and come back on the same port with the same data directory. */
import assert from 'node:assert/strict'
import { EVENT_ACTION as EA, LOCAL_WINS, PRESENCE_ACTION as PA, RECORD_ACTION as RA, RPC_ACTION as PC, TOPIC, state } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { temporaryDirectory } from '../lib/server.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('reconnect')

const LIMIT = { limit: 40000 }

/** A server with a data directory that can be stopped ('stop' or 'kill') and started again. */
async function restartable (t) {
  const dataDir = temporaryDirectory(t)
  let server = await t.server({ dataDir })
  const { port, url } = server
  return {
    url,
    /** Takes the server away, does `meanwhile`, and brings it back. */
    async restart (how, clients, meanwhile = async () => {}) {
      for (const client of clients) client.wire.allowConnectionErrors()
      const code = await server[how]()
      if (how === 'stop') assert.equal(code, 0, 'exit code')
      await Promise.all(clients.map((client) => state(client, 'RECONNECTING')))
      await meanwhile()
      server = await t.server({ dataDir, port })
      await Promise.all(clients.map((client) => state(client, 'OPEN')))
    }
  }
}

/** Takes the client offline, does `meanwhile`, and lets it come back. */
async function offline (client, meanwhile) {
  client.pause()
  await state(client, 'OFFLINE')
  await meanwhile()
  await client.resume()
}

const open = (t, client, name) => t.ready(client.record.getRecord(name))

for (const how of ['stop', 'kill']) {
  suite.case(`server ${how}: records are intact and subscribed again`, async (t) => {
    const server = await restartable(t)
    const [a, b] = [await t.login({}, {}, server.url), await t.login({}, {}, server.url)]
    const name = t.name('record')
    const [ra, rb] = [await open(t, a, name), await open(t, b, name)]
    await ra.setWithAck({ before: true, list: [1, 'zwei', null] })
    await ra.setWithAck('patched', 'ü')
    await t.until(() => rb.version === 2, 'version 2')
    await server.restart(how, [a, b])
    await Promise.all([a, b].map((client) => client.wire.acked(TOPIC.RECORD, RA.SUBSCRIBEANDHEAD, name)))
    const fresh = await t.login({}, {}, server.url)
    assert.deepEqual(await fresh.record.snapshot(name), { before: true, list: [1, 'zwei', null], patched: 'ü' })
    assert.equal(await fresh.record.head(name), 2)
    await t.ready(ra)
    await fresh.record.setDataWithAck(name, 'after', true)
    for (const record of [ra, rb]) {
      await t.until(() => record.get('after') === true, 'the new value')
      assert.deepEqual(record.get(), { before: true, list: [1, 'zwei', null], patched: 'ü', after: true })
    }
  }, LIMIT)

  suite.case(`server ${how}: every acknowledged write survives`, async (t) => {
    const server = await restartable(t)
    const client = await t.login({}, {}, server.url)
    const base = t.name('many')
    const names = Array.from({ length: 100 }, (_, n) => `${base}/${n}`)
    await Promise.all(names.map((name, n) => client.record.setDataWithAck(name, { n: n + 1 })))
    await Promise.all(names.slice(0, 50).map((name, n) => client.record.setDataWithAck(name, 'n', -n - 1)))
    await server.restart(how, [client])
    const stored = await Promise.all(names.map((name) => client.record.snapshot(name)))
    assert.deepEqual(stored, names.map((_, n) => ({ n: n < 50 ? -n - 1 : n + 1 })))
  }, LIMIT)
}

suite.case('server stop: writes without acknowledgement are stored too', async (t) => {
  const server = await restartable(t)
  const client = await t.login({}, {}, server.url)
  const record = await open(t, client, t.name('record'))
  for (let n = 1; n <= 50; n++) record.set('n', n)
  await client.record.setDataWithAck(t.name('last'), { sent: 'after the others' })
  const name = record.name
  record.discard()
  await server.restart('stop', [client])
  const fresh = await t.login({}, {}, server.url)
  assert.deepEqual(await fresh.record.snapshot(name), { n: 50 })
}, LIMIT)

suite.case('server kill: deleted records stay deleted', async (t) => {
  const server = await restartable(t)
  const client = await t.login({}, {}, server.url)
  const record = await open(t, client, t.name('record'))
  const name = record.name
  await record.setWithAck({ a: 1 })
  await record.delete()
  await server.restart('kill', [client])
  assert.equal(await client.record.has(name), false)
}, LIMIT)

suite.case('server stop: lists are intact', async (t) => {
  const server = await restartable(t)
  const client = await t.login({}, {}, server.url)
  const list = await t.ready(client.record.getList(t.name('list')))
  await list.setEntriesWithAck(['one', 'two', 'three'])
  await server.restart('stop', [client])
  const fresh = await t.login({}, {}, server.url)
  const other = await t.ready(fresh.record.getList(list.name))
  assert.deepEqual(other.getEntries(), ['one', 'two', 'three'])
  await client.wire.acked(TOPIC.RECORD, RA.SUBSCRIBEANDHEAD, list.name)
  await t.ready(list)
  other.addEntry('four')
  await t.until(() => list.getEntries().length === 4, 'four entries')
}, LIMIT)

suite.case('server stop: events are subscribed again', async (t) => {
  const server = await restartable(t)
  const [a, b] = [await t.login({}, {}, server.url), await t.login({}, {}, server.url)]
  const base = t.name('event')
  const names = Array.from({ length: 20 }, (_, n) => `${base}/${n}`)
  const calls = t.calls('events')
  for (const name of names) b.event.subscribe(name, calls.fn)
  await b.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, names[0])
  await server.restart('stop', [a, b])
  await b.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, names[0])
  for (const name of names) a.event.emit(name, name)
  await calls.nth(20)
  assert.deepEqual(calls.firsts, names)
}, LIMIT)

suite.case('server stop: procedures are provided again', async (t) => {
  const server = await restartable(t)
  const [a, b] = [await t.login({}, {}, server.url), await t.login({}, {}, server.url)]
  const name = t.name('rpc')
  a.rpc.provide(name, (data, response) => response.send(data * 2))
  await a.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  await server.restart('stop', [a, b])
  await a.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  assert.equal(await b.rpc.make(name, 21), 42)
}, LIMIT)

suite.case('server stop: presence is subscribed again', async (t) => {
  const server = await restartable(t)
  const watcher = await t.login({}, {}, server.url)
  const user = t.name('user')
  const [one, all] = [t.calls('one'), t.calls('all')]
  watcher.presence.subscribe(user, one.fn)
  watcher.presence.subscribe(all.fn)
  await watcher.wire.acked(TOPIC.PRESENCE, PA.SUBSCRIBE, user)
  await server.restart('stop', [watcher])
  await watcher.wire.acked(TOPIC.PRESENCE, PA.SUBSCRIBE, user)
  await t.login({ username: user }, {}, server.url)
  assert.deepEqual(await one.nth(1), [user, true])
  assert.deepEqual(await all.find((name) => name === user), [user, true])
}, LIMIT)

suite.case('server stop: listeners are asked again', async (t) => {
  const server = await restartable(t)
  const [listener, user] = [await t.login({}, {}, server.url), await t.login({}, {}, server.url)]
  const name = t.name('listen')
  const [found, stopped] = [t.calls('found'), t.calls('stopped')]
  listener.record.listen('^listen/', (subscription, response) => {
    response.onStop(stopped.fn)
    found.fn(subscription)
    response.accept()
  })
  const record = await open(t, user, name)
  await found.nth(1)
  await t.until(() => record.hasProvider, 'provider')
  const from = user.wire.count
  await server.restart('stop', [listener, user])
  await stopped.nth(1)
  await found.nth(2)
  await user.wire.message(TOPIC.RECORD, RA.SUBSCRIPTION_HAS_PROVIDER, { name }, from)
}, LIMIT)

suite.case('server stop closes the connections', async (t) => {
  const server = await t.server({ dataDir: temporaryDirectory(t) })
  const client = await t.login({}, {}, server.url)
  client.wire.allowConnectionErrors()
  const closed = new Promise((resolve) => client.wire.socket.once('close', resolve))
  assert.equal(await server.stop(), 0)
  assert.equal(await closed, 1001)
}, { ...LIMIT, oracle: 'cuts the connections without a closing code' })

suite.case('broken connection: everything is registered again', async (t) => {
  const [client, other] = await t.logins(2)
  const name = t.name('all')
  const events = t.calls('events')
  client.event.subscribe(name, events.fn)
  client.rpc.provide(name, (data, response) => response.send('answer'))
  const record = await open(t, client, name)
  await client.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  await client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
  client.wire.drop()
  await client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
  await client.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  await client.wire.acked(TOPIC.RECORD, RA.SUBSCRIBEANDHEAD, name)
  other.event.emit(name, 1)
  await events.nth(1)
  assert.equal(await other.rpc.make(name, 1), 'answer')
  await other.record.setDataWithAck(name, { a: 1 })
  await t.until(() => record.get('a') === 1, 'update')
})

suite.case('broken connection: one leave and one join', async (t) => {
  const [watcher, client] = await t.logins(2)
  const calls = t.calls('presence')
  watcher.presence.subscribe(client.user, calls.fn)
  await watcher.wire.acked(TOPIC.PRESENCE, PA.SUBSCRIBE, client.user)
  client.wire.drop()
  await calls.nth(2)
  assert.deepEqual(calls.list, [[client.user, false], [client.user, true]])
})

suite.case('broken connection: ten times in a row', async (t) => {
  const [client, other] = await t.logins(2)
  const name = t.name('again')
  const calls = t.calls('events')
  client.event.subscribe(name, calls.fn)
  await client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
  for (let round = 1; round <= 10; round++) {
    client.wire.drop()
    await client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
    other.event.emit(name, round)
    await calls.nth(round)
  }
  assert.deepEqual(calls.firsts, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
})

suite.case('changes made meanwhile are read after the reconnect', async (t) => {
  const [client, other] = await t.logins(2)
  const record = await open(t, client, t.name('meanwhile'))
  await record.setWithAck({ a: 1, b: 1 })
  const changes = t.calls('subscription')
  record.subscribe('a', changes.fn)
  await offline(client, async () => {
    await other.record.setDataWithAck(record.name, 'a', 2)
    await other.record.setDataWithAck(record.name, 'a', 3)
  })
  assert.deepEqual(await changes.find((a) => a === 3), [3])
  await t.until(() => record.version === 3, 'version 3')
  assert.deepEqual(record.get(), { a: 3, b: 1 })
})

suite.case('record deleted meanwhile', async (t) => {
  const [client, other] = await t.logins(2)
  const record = await open(t, client, t.name('meanwhile'))
  const deleted = t.calls('delete event')
  record.on('delete', deleted.fn)
  await record.setWithAck({ a: 1 })
  await record.setWithAck({ a: 2 })
  await offline(client, async () => {
    const same = await open(t, other, record.name)
    await same.delete()
  })
  await deleted.nth(1)
})

suite.case('fifty records are compared in one request', async (t) => {
  const [client, other] = await t.logins(2)
  const base = t.name('bulk')
  const records = await Promise.all(Array.from({ length: 50 }, (_, n) => open(t, client, `${base}/${n}`)))
  await Promise.all(records.map((record, n) => record.setWithAck({ n })))
  await offline(client, async () => {
    await Promise.all(records.slice(0, 25).map((record) => other.record.setDataWithAck(record.name, 'n', 'new')))
  })
  const request = await client.wire.request(TOPIC.RECORD, RA.SUBSCRIBEANDHEAD, records[0].name)
  assert.equal(request.names.length, 50)
  await t.until(() => records.slice(0, 25).every((record) => record.get('n') === 'new'), 'all new values')
  assert.deepEqual(records.slice(25).map((record) => record.get('n')), Array.from({ length: 25 }, (_, n) => n + 25))
})

suite.case('write while paused is sent on resume', async (t) => {
  const [client, other] = await t.logins(2)
  const record = await open(t, client, t.name('dirty'))
  await record.setWithAck({ a: 'server' })
  const seen = await open(t, other, record.name)
  await offline(client, async () => {
    record.set('a', 'offline')
    record.set('b', 'too')
  })
  await t.until(() => seen.get('a') === 'offline', 'the offline value at the other client')
  assert.deepEqual(seen.get(), { a: 'offline', b: 'too' })
  assert.equal(seen.version, 2)
})

suite.case('write while paused, LOCAL_WINS', async (t) => {
  const other = await t.login()
  const client = await t.login({}, { mergeStrategy: LOCAL_WINS })
  const record = await open(t, client, t.name('dirty'))
  await record.setWithAck({ a: 'server' })
  const seen = await open(t, other, record.name)
  await offline(client, async () => record.set('a', 'offline'))
  await t.until(() => seen.get('a') === 'offline', 'the offline value at the other client')
  assert.deepEqual(await (await t.login()).record.snapshot(record.name), { a: 'offline' })
})

suite.case('write while paused that meets a newer one, REMOTE_WINS', async (t) => {
  const [client, other] = await t.logins(2)
  const record = await open(t, client, t.name('dirty'))
  await record.setWithAck({ a: 'server' })
  await offline(client, async () => {
    record.set('a', 'offline')
    await other.record.setDataWithAck(record.name, 'a', 'newer')
  })
  await t.until(() => record.get('a') === 'newer', 'the value of the server')
  assert.deepEqual(await other.record.snapshot(record.name), { a: 'newer' })
})

suite.case('write after a broken connection, REMOTE_WINS: the server keeps its data', async (t) => {
  const [client, other] = await t.logins(2)
  const record = await open(t, client, t.name('dirty'))
  await record.setWithAck({ a: 'server' })
  client.wire.drop()
  await state(client, 'RECONNECTING')
  record.set('a', 'offline')
  assert.equal(record.get('a'), 'offline')
  await t.until(() => record.get('a') === 'server', 'the value of the server')
  assert.deepEqual(await other.record.snapshot(record.name), { a: 'server' })
  await record.setWithAck('a', 'online')
  assert.deepEqual(await other.record.snapshot(record.name), { a: 'online' })
})

suite.case('record created while offline', async (t) => {
  const other = await t.login()
  const client = await t.login()
  const name = t.name('created')
  let record
  await offline(client, async () => {
    record = await open(t, client, name)
    record.set({ made: 'offline' })
  })
  await t.until(() => other.record.has(name), 'record at the server')
  assert.deepEqual(await other.record.snapshot(name), { made: 'offline' })
  assert.equal(await other.record.head(name), 1)
  await other.record.setDataWithAck(name, 'then', 1)
  await t.until(() => record.get('then') === 1, 'update')
})

suite.case('calls made shortly after a loss are sent after the reconnect', async (t) => {
  const [client, other] = await t.logins(2)
  const name = t.name('queue')
  const calls = t.calls('events')
  other.event.subscribe(name, calls.fn)
  other.rpc.provide(name, (data, response) => response.send(data + 1))
  await other.record.setDataWithAck(name, { a: 1 })
  await other.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  client.wire.drop()
  await state(client, 'RECONNECTING')
  client.event.emit(name, 'queued')
  const results = [
    client.rpc.make(name, 1), client.record.snapshot(name), client.record.head(t.name('missing')), client.presence.getAll([other.user])
  ]
  assert.deepEqual(await calls.nth(1), ['queued'])
  assert.deepEqual(await Promise.all(results), [2, { a: 1 }, -1, { [other.user]: true }])
})

suite.case('forty clients lose their connections at once', async (t) => {
  const clients = await t.logins(40)
  const base = t.name('storm')
  const names = Array.from({ length: 10 }, (_, n) => `${base}/${n}`)
  const records = await Promise.all(clients.map((client) => Promise.all(names.map((name) => open(t, client, name)))))
  await Promise.all(records[0].map((record, n) => record.setWithAck({ n })))
  for (const client of clients) client.wire.drop()
  await Promise.all(clients.flatMap((client) => names.map((name) => client.wire.acked(TOPIC.RECORD, RA.SUBSCRIBEANDHEAD, name))))
  const writer = await t.login()
  await Promise.all(names.map((name) => writer.record.setDataWithAck(name, 'after', true)))
  await t.until(() => records.flat().every((record) => record.get('after') === true), 'all records follow')
  for (const own of records) assert.deepEqual(own.map((record) => record.get('n')), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
}, LIMIT)

suite.case('offline storage of a client is sent by its next incarnation', async (t) => {
  const stored = new Map()
  const storage = {
    get: (name, callback) => {
      const entry = stored.get(name)
      setImmediate(() => entry ? callback(name, entry.version, JSON.parse(entry.data)) : callback(name, -1, null))
    },
    set: (name, version, data, callback) => {
      stored.set(name, { version, data: JSON.stringify(data) })
      setImmediate(() => callback(null, name))
    },
    delete: (name, callback) => {
      stored.delete(name)
      setImmediate(() => callback(null, name))
    },
    reset: (callback) => callback(null)
  }
  const options = { offlineEnabled: true, storageName: 'own', storage, saveUpdatesOffline: true }
  const other = await t.login()
  const name = t.name('offline')
  const first = await t.login({}, options)
  const record = await open(t, first, name)
  await record.setWithAck({ a: 1 })
  first.pause()
  await state(first, 'OFFLINE')
  record.set('b', 2)
  await t.until(() => stored.get('__ds__dirty_records')?.data.includes(name), 'the list of changed records is stored')
  await first.wire.close()
  await t.login({}, options)
  await t.until(async () => (await other.record.snapshot(name)).b === 2, 'the offline write at the server')
  assert.deepEqual(await other.record.snapshot(name), { a: 1, b: 2 })
})

suite.case('queued calls fail when the server stays away', async (t) => {
  const server = await t.server({})
  const client = await t.login({}, { offlineBufferTimeout: 50 }, server.url)
  client.wire.allowConnectionErrors()
  await server.kill()
  await state(client, 'RECONNECTING')
  assert.equal(await rejection(client.rpc.make('x', 1)), 'client offline')
  assert.equal(await rejection(client.record.snapshot('x')), 'client offline')
})

suite.case('calls under way fail when the connection breaks', async (t) => {
  const [client, provider] = await t.logins(2)
  const name = t.name('pending')
  const asked = t.calls('provider')
  provider.rpc.provide(name, asked.fn)
  await provider.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
  const call = rejection(client.rpc.make(name, 1))
  await asked.nth(1)
  client.wire.drop()
  assert.equal(await call, 'client offline')
  await state(client, 'OPEN')
})

suite.case('connection made before the server is there', async (t) => {
  const server = await t.server({})
  const { port } = server
  await server.kill()
  const client = t.client({}, server.url)
  client.wire.allowConnectionErrors()
  const login = client.login({ username: 'early' })
  await state(client, 'RECONNECTING')
  await t.server({ port })
  await login
}, LIMIT)
