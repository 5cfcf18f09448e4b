/** Who is online. */
import assert from 'node:assert/strict'
import { PRESENCE_ACTION as PA, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('presence')

const PRESENCE = TOPIC.PRESENCE

/** Subscribes to a user, or to everybody, and waits for the acknowledgement. */
async function subscribe (t, client, user) {
  const calls = t.calls(`presence of ${user ?? 'all'}`)
  if (user === undefined) {
    client.presence.subscribe(calls.fn)
    await client.wire.acked(PRESENCE, PA.SUBSCRIBE_ALL)
  } else {
    client.presence.subscribe(user, calls.fn)
    await client.wire.acked(PRESENCE, PA.SUBSCRIBE, user)
  }
  return calls
}

suite.case('getAll lists the others, not the asker', async (t) => {
  const clients = await t.logins(3)
  const all = await clients[0].presence.getAll()
  assert(all.includes(clients[1].user))
  assert(all.includes(clients[2].user))
  assert(!all.includes(clients[0].user))
})

suite.case('getAll of a single client is empty', async (t) => {
  const server = await t.server({})
  const client = await t.login({}, {}, server.url)
  assert.deepEqual(await client.presence.getAll(), [])
})

suite.case('getAll with a callback', async (t) => {
  const [a, b] = await t.logins(2)
  const calls = t.calls('getAll')
  a.presence.getAll(calls.fn)
  const [error, users] = await calls.nth(1)
  assert.equal(error, null)
  assert(users.includes(b.user))
})

suite.case('getAll of users', async (t) => {
  const [a, b] = await t.logins(2)
  const missing = t.name('missing')
  assert.deepEqual(await a.presence.getAll([b.user, missing, a.user]), { [b.user]: true, [missing]: false, [a.user]: true })
})

suite.case('getAll of no users', async (t) => {
  const client = await t.login()
  assert.deepEqual(await client.presence.getAll([]), {})
})

suite.case('parallel queries get their own answers', async (t) => {
  const clients = await t.logins(5)
  const answers = await Promise.all(clients.slice(1).map(({ user }) => clients[0].presence.getAll([user])))
  assert.deepEqual(answers, clients.slice(1).map(({ user }) => ({ [user]: true })))
  const [one, two] = await Promise.all([clients[0].presence.getAll(), clients[0].presence.getAll()])
  assert.deepEqual(one, two)
})

suite.case('users with unusual names', async (t) => {
  const asker = await t.login()
  for (const base of ['ünï/日本 😀', '__proto__', 'a"b\\c']) {
    const username = base === '__proto__' ? base : t.name(base)
    await t.login({ username })
    assert.equal((await asker.presence.getAll([username, 'x']))[username], true)
    assert((await asker.presence.getAll()).includes(username))
  }
}, { oracle: 'keeps users as members of plain objects, so that __proto__ is lost' })

suite.case('subscribe to a user', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const calls = await subscribe(t, watcher, user)
  const client = await t.login({ username: user })
  assert.deepEqual(await calls.nth(1), [user, true])
  await client.wire.close()
  assert.deepEqual(await calls.nth(2), [user, false])
})

suite.case('subscribe to everybody', async (t) => {
  const watcher = await t.login()
  const calls = await subscribe(t, watcher)
  const client = await t.login()
  assert.deepEqual(await calls.find((user) => user === client.user), [client.user, true])
  await client.wire.close()
  assert.deepEqual(await calls.find((user, online) => user === client.user && !online), [client.user, false])
})

suite.case('both kinds of subscription are told', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const all = await subscribe(t, watcher)
  const one = await subscribe(t, watcher, user)
  await t.login({ username: user })
  await one.nth(1)
  await all.find((name) => name === user)
})

suite.case('several sessions of one user: one join, one leave', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const calls = await subscribe(t, watcher, user)
  const sessions = [await t.login({ username: user }), await t.login({ username: user }), await t.login({ username: user })]
  await calls.nth(1)
  await sessions[0].wire.close()
  await sessions[1].wire.close()
  assert.deepEqual(await watcher.presence.getAll([user]), { [user]: true })
  await sessions[2].wire.close()
  await calls.nth(2)
  assert.deepEqual(calls.list, [[user, true], [user, false]])
})

suite.case('user comes back', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const calls = await subscribe(t, watcher, user)
  for (let round = 0; round < 3; round++) {
    const client = await t.login({ username: user })
    await client.wire.close()
    await calls.nth(2 * round + 2)
  }
  assert.deepEqual(calls.list.map(([, online]) => online), [true, false, true, false, true, false])
})

suite.case('broken connection counts as a leave', async (t) => {
  const watcher = await t.login()
  const raw = await t.rawLogin()
  const calls = await subscribe(t, watcher, raw.user)
  await raw.close()
  assert.deepEqual(await calls.nth(1), [raw.user, false])
})

suite.case('other sessions of a user are told of a new user', async (t) => {
  const username = t.name('user')
  const first = await t.login({ username })
  const calls = await subscribe(t, first)
  const other = await t.login()
  assert.deepEqual(await calls.find((user) => user === other.user), [other.user, true])
})

suite.case('unsubscribe from a user', async (t) => {
  const watcher = await t.login()
  const [gone, stays] = [t.name('user'), t.name('user')]
  const calls = await subscribe(t, watcher, gone)
  const other = await subscribe(t, watcher, stays)
  watcher.presence.unsubscribe(gone, calls.fn)
  await watcher.wire.acked(PRESENCE, PA.UNSUBSCRIBE, gone)
  await t.login({ username: gone })
  await t.login({ username: stays })
  await other.nth(1)
  assert.deepEqual(watcher.wire.messages(PRESENCE, PA.PRESENCE_JOIN).map((message) => message.name), [stays])
})

suite.case('unsubscribe from everybody', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const all = t.calls('all')
  const one = await subscribe(t, watcher, user)
  watcher.presence.subscribe(all.fn)
  await watcher.wire.acked(PRESENCE, PA.SUBSCRIBE_ALL)
  watcher.presence.unsubscribe(all.fn)
  await watcher.wire.acked(PRESENCE, PA.UNSUBSCRIBE_ALL)
  await t.login({ username: user })
  await one.nth(1)
  assert.deepEqual(watcher.wire.messages(PRESENCE, PA.PRESENCE_JOIN_ALL).filter(({ name }) => name === user), [])
})

suite.case('subscription of a user already online is not told of him', async (t) => {
  const [watcher, client] = await t.logins(2)
  const calls = await subscribe(t, watcher, client.user)
  await client.wire.close()
  assert.deepEqual(await calls.nth(1), [client.user, false])
})

suite.case('client without an id is not listed', async (t) => {
  const watcher = await t.login()
  const calls = await subscribe(t, watcher)
  const anonymous = t.client()
  await anonymous.login()
  const marker = await t.login()
  await calls.find((user) => user === marker.user)
  assert(!calls.firsts.includes('OPEN'))
  assert(!(await watcher.presence.getAll()).includes('OPEN'))
})

suite.case('refused login is not present', async (t) => {
  const watcher = await t.login()
  const user = t.name('user')
  const calls = await subscribe(t, watcher, user)
  const client = t.client()
  await rejection(client.login({ username: user, password: 'wrong' }))
  assert.deepEqual(await watcher.presence.getAll([user]), { [user]: false })
  assert.equal(calls.list.length, 0)
})

suite.case('fifty logins and logouts are all told', async (t) => {
  const watcher = await t.login()
  const calls = await subscribe(t, watcher)
  const clients = await t.logins(50)
  for (const { user } of clients) await calls.find((name, online) => name === user && online)
  await Promise.all(clients.map((client) => client.wire.close()))
  for (const { user } of clients) await calls.find((name, online) => name === user && !online)
})

suite.case('acknowledgements and order on the wire', async (t) => {
  const raw = await t.rawLogin()
  const user = t.name('user')
  raw.send({ topic: PRESENCE, action: PA.SUBSCRIBE_ALL })
  assert.deepEqual(await raw.message(PRESENCE, PA.SUBSCRIBE_ALL), { topic: PRESENCE, action: PA.SUBSCRIBE_ALL, isAck: true })
  raw.send({ topic: PRESENCE, action: PA.SUBSCRIBE, names: [user], correlationId: '4' })
  assert.deepEqual(await raw.message(PRESENCE, PA.SUBSCRIBE), { topic: PRESENCE, action: PA.SUBSCRIBE, correlationId: '4', isAck: true })
  await t.login({ username: user })
  await raw.messages.find((message) => message.action === PA.PRESENCE_JOIN && message.name === user)
  const told = raw.messages.list.filter((message) => message.name === user)
  assert.deepEqual(told, [
    { topic: PRESENCE, action: PA.PRESENCE_JOIN_ALL, name: user }, { topic: PRESENCE, action: PA.PRESENCE_JOIN, name: user }
  ])
})

suite.case('repeated subscriptions are reported and acknowledged', async (t) => {
  const raw = await t.rawLogin()
  const user = t.name('user')
  for (let count = 0; count < 2; count++) {
    raw.send({ topic: PRESENCE, action: PA.SUBSCRIBE_ALL })
    raw.send({ topic: PRESENCE, action: PA.SUBSCRIBE, names: [user], correlationId: String(count) })
  }
  const all = await raw.message(PRESENCE, PA.MULTIPLE_SUBSCRIPTIONS, { originalAction: PA.SUBSCRIBE_ALL })
  assert.equal(all.name, '%_EVERYONE_%')
  const one = await raw.message(PRESENCE, PA.MULTIPLE_SUBSCRIPTIONS, { originalAction: PA.SUBSCRIBE })
  assert.equal(one.name, user)
  for (let count = 0; count < 2; count++) {
    await raw.message(PRESENCE, PA.SUBSCRIBE_ALL, { isAck: true })
    await raw.message(PRESENCE, PA.SUBSCRIBE, { isAck: true, correlationId: String(count) })
  }
})
