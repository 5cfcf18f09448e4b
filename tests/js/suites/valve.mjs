/**
 * Permission rules: each type allowed, denied and failing, as the client sees it. tests/test_js_permission_file.py runs the
 * same cases on files.
 */
import assert from 'node:assert/strict'
import { EVENT_ACTION as EA, RECORD_ACTION as RA, RPC_ACTION as PC, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

const TYPES = {
  record: ['create', 'read', 'write', 'delete', 'listen', 'notify'],
  event: ['publish', 'subscribe', 'listen'],
  rpc: ['provide', 'request'],
  presence: ['allow']
}

/** Everything is allowed, except at `deny-<type>/` and `fail-<type>/`; and some rules of the kind people write. */
function permissions () {
  const sections = {}
  for (const [section, types] of Object.entries(TYPES)) {
    sections[section] = { '*': Object.fromEntries(types.map((type) => [type, true])) }
    for (const type of types) {
      sections[section][`deny-${type}/*`] = { [type]: 'user.id === "somebody else"' }
      sections[section][`fail-${type}/*`] = { [type]: 'user.data.nothing.more === 1' }
    }
  }
  sections.record['own/$userId/*'] = { create: 'user.id === $userId', write: 'user.id === $userId' }
  sections.record['counter/*'] = { write: 'oldData === null || !oldData.n || data.n > oldData.n' }
  sections.record['public/*'] = { read: 'oldData === null || oldData.public === true || user.data.role === "admin"' }
  sections.record['follows/*'] = { write: '_("leader").open === true' }
  sections.record['unset/*'] = { write: 'user.data.mayWrite' }
  sections.event['news/*'] = { publish: 'user.data !== null && user.data.role === "admin"' }
  sections.event['price/*'] = { publish: 'data.cost < 10' }
  sections.event['unset/*'] = { publish: 'user.data.mayPublish' }
  sections.rpc['add'] = { request: 'typeof data.a === "number" && typeof data.b === "number"' }
  return sections
}

export const suite = new Suite('valve', {
  auth: [{
    type: 'file',
    options: {
      hash: 'md5',
      iterations: 100,
      keyLength: 32,
      users: {
        alice: {
          password: 'rCOSZxJrgze2AZdVQh12c6ErDMOG0M+Rx5Yu7S5d91c=GS4SbTQYmoaGwjm2shEobg==',
          serverData: { role: 'admin' }
        },
        bob: { password: 'jHPg24EDs9SKHALytrfaoEvDyz7wJgSVEY0ANaw/LgA=m5Ilfg/3+yN5j38tx8cBfA==' }
      }
    }
  }],
  permission: { type: 'config', options: { permissions: permissions() } }
})

const alice = (t) => t.login({ username: 'alice', password: 'password' })
const bob = (t) => t.login({ username: 'bob', password: 'userBPass' })

// --- every rule type

/** An existing record of that name. */
const existing = (client, name) => client.record.setDataWithAck(name, { a: 1 })

/** The first error event of a record that is opened. */
async function openingError (t, client, name) {
  const errors = t.calls('record error')
  const record = client.record.getRecord(name)
  record.on('error', errors.fn)
  const failed = errors.find((event) => event.startsWith('MESSAGE_')).then(([event]) => event)
  const event = await Promise.race([failed, record.whenReady().then(() => null)])
  if (event) await client.wire.error(event)
  else failed.catch(() => {})
  return event
}

/** Waits for the error event of what has no callback of its own; with `null` for `acked`, which tells that it was allowed. */
async function eventOf (client, topic, acked, event) {
  if (event === null) {
    await acked()
  } else if (topic === TOPIC.EVENT && event === 'MESSAGE_PERMISSION_ERROR') {
    await client.wire.message(topic, EA.MESSAGE_PERMISSION_ERROR)
    await client.wire.error('UNSOLICITED_MESSAGE') // this client does not know it for events
  } else {
    await client.wire.error(event)
  }
  return event
}

/** What a promise was rejected with, null if it was not. */
const outcome = (promise) => promise.then(() => null, (reason) => reason)

/**
 * By rule type: what needs it, with a title. Each resolves with null if it was allowed, else with the error the client was
 * told; `expected` is that error for those that have to wait for an event.
 */
const REQUESTS = {
  'record.create': {
    'opening a new record': (t, client, name) => openingError(t, client, name),
    'setting the data of a new record': (t, client, name) => outcome(client.record.setDataWithAck(name, { a: 1 })),
    'setting a path of a new record': (t, client, name) => outcome(client.record.setDataWithAck(name, 'a', 1))
  },
  'record.read': {
    snapshot: async (t, client, name) => {
      await existing(client, name)
      return outcome(client.record.snapshot(name))
    },
    head: (t, client, name) => outcome(client.record.head(name)),
    has: (t, client, name) => outcome(client.record.has(name)),
    'opening an existing record': async (t, client, name) => {
      await existing(client, name)
      return openingError(t, client, name)
    }
  },
  'record.write': {
    'setting data': (t, client, name) => outcome(client.record.setDataWithAck(name, { a: 1 })),
    'setting a record': async (t, client, name) => {
      const record = await t.ready(client.record.getRecord(name))
      return outcome(record.setWithAck({ a: 1 }))
    },
    'setting a path of a record': async (t, client, name) => {
      const record = await t.ready(client.record.getRecord(name))
      return outcome(record.setWithAck('a.b', 1))
    }
  },
  'record.delete': {
    'deleting a record': async (t, client, name, expected) => {
      const record = await t.ready(client.record.getRecord(name))
      const result = await outcome(record.delete())
      if (expected === null) return result
      assert.equal(result, 'MESSAGE_DENIED') // this client rejects with it whatever the server says
      await client.wire.message(TOPIC.RECORD, RA[expected], { name })
      return expected
    },
    'erasing a path': async (t, client, name, expected) => {
      await existing(client, name)
      const errors = t.calls('record error')
      const record = await t.ready(client.record.getRecord(name))
      record.on('error', errors.fn)
      record.erase('a')
      await client.wire.ping()
      assert.deepEqual(await (await bob(t)).record.snapshot(name), expected ? { a: 1 } : {})
      return expected && (await errors.nth(1))[0]
    }
  },
  'record.listen': {
    'listening to records': (t, client, name, expected) => {
      client.record.listen(name, () => {})
      return eventOf(client, TOPIC.RECORD, () => client.wire.acked(TOPIC.RECORD, RA.LISTEN, name), expected)
    }
  },
  'record.notify': {
    notifying: async (t, client, name, expected) => {
      const done = client.record.notify([name])
      if (expected === null) await done // else the client calls nobody back
      else await client.wire.error(expected)
      return expected
    }
  },
  'event.publish': {
    emitting: async (t, client, name, expected) => {
      const [receiver, calls] = [await bob(t), t.calls('events')]
      receiver.event.subscribe(name, calls.fn)
      await receiver.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
      client.event.emit(name, 1)
      const result = await eventOf(client, TOPIC.EVENT, () => calls.nth(1), expected)
      await receiver.wire.ping()
      assert.equal(calls.list.length, expected === null ? 1 : 0)
      return result
    }
  },
  'event.subscribe': {
    'subscribing to an event': (t, client, name, expected) => {
      client.event.subscribe(name, () => {})
      return eventOf(client, TOPIC.EVENT, () => client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name), expected)
    }
  },
  'event.listen': {
    'listening to events': (t, client, name, expected) => {
      client.event.listen(name, () => {})
      return eventOf(client, TOPIC.EVENT, () => client.wire.acked(TOPIC.EVENT, EA.LISTEN, name), expected)
    }
  },
  'rpc.provide': {
    providing: (t, client, name, expected) => {
      client.rpc.provide(name, () => {})
      return eventOf(client, TOPIC.RPC, () => client.wire.acked(TOPIC.RPC, PC.PROVIDE, name), expected)
    }
  },
  'rpc.request': {
    calling: async (t, client, name) => {
      const provider = await bob(t)
      provider.rpc.provide(name, (data, response) => response.send(data))
      await provider.wire.acked(TOPIC.RPC, PC.PROVIDE, name)
      return outcome(client.rpc.make(name, 1))
    }
  },
  'presence.allow': {
    'asking for users': (t, client, name) => outcome(client.presence.getAll([name])),
    'subscribing to a user': (t, client, name, expected) => {
      client.presence.subscribe(name, () => {})
      return eventOf(client, TOPIC.PRESENCE, () => client.wire.ping(), expected)
    }
  }
}
const OUTCOMES = { allow: null, deny: 'MESSAGE_DENIED', fail: 'MESSAGE_PERMISSION_ERROR' }

for (const [kind, requests] of Object.entries(REQUESTS)) {
  const type = kind.split('.')[1]
  for (const [title, request] of Object.entries(requests)) {
    for (const [word, expected] of Object.entries(OUTCOMES)) {
      suite.case(`${kind}, ${title}: ${expected ?? 'allowed'}`, async (t) => {
        const client = await alice(t)
        assert.equal(await request(t, client, t.name(`${word}-${type}`), expected), expected)
        await client.wire.ping()
      }, title === 'erasing a path' && expected ? { oracle: 'of that version asks the rule for writing' } : {})
    }
  }
}

// --- rules as people write them

suite.case('own records', async (t) => {
  const [a, b] = [await alice(t), await bob(t)]
  const name = t.name('own/alice')
  await a.record.setDataWithAck(name, { x: 1 })
  assert.equal(await rejection(b.record.setDataWithAck(name, { x: 2 })), 'MESSAGE_DENIED')
  assert.deepEqual(await b.record.snapshot(name), { x: 1 })
})

suite.case('a counter that only grows, with writes in a row', async (t) => {
  const client = await alice(t)
  const name = t.name('counter')
  await client.record.setDataWithAck(name, {})
  const results = await Promise.all([5, 3, 7, 7, 9].map((n) => outcome(client.record.setDataWithAck(name, 'n', n))))
  assert.deepEqual(results, [null, 'MESSAGE_DENIED', null, 'MESSAGE_DENIED', null])
  assert.deepEqual(await client.record.snapshot(name), { n: 9 })
}, { oracle: 'shows the rules of writes in a row the record as it was before them' })

suite.case('records that are public or not', async (t) => {
  const [a, b] = [await alice(t), await bob(t)]
  const [open, closed] = [t.name('public'), t.name('public')]
  await a.record.setDataWithAck(open, { public: true })
  await a.record.setDataWithAck(closed, { public: false })
  assert.deepEqual(await b.record.snapshot(open), { public: true })
  assert.equal(await rejection(b.record.snapshot(closed)), 'MESSAGE_PERMISSION_ERROR') // bob has no server data
  assert.deepEqual(await a.record.snapshot(closed), { public: false })
})

suite.case('a rule that refers to another record', async (t) => {
  const client = await alice(t)
  const name = t.name('follows')
  await client.record.setDataWithAck('leader', { open: false })
  assert.equal(await rejection(client.record.setDataWithAck(name, { x: 1 })), 'MESSAGE_DENIED')
  await client.record.setDataWithAck('leader', { open: true })
  await client.record.setDataWithAck(name, { x: 1 })
})

suite.case('a flag that is not set refuses', async (t) => {
  const client = await alice(t)
  client.event.emit(t.name('unset'), 1)
  await client.wire.error('MESSAGE_DENIED')
  const name = t.name('unset')
  await t.ready(client.record.getRecord(name))
  assert.equal(await rejection(client.record.setDataWithAck(name, 'x', 1)), 'MESSAGE_DENIED')
}, { oracle: 'lets undefined, null, 0 and the empty text pass' })

suite.case('server data', async (t) => {
  const [a, b, reader] = [await alice(t), await bob(t), await bob(t)]
  const [name, calls] = [t.name('news'), t.calls('events')]
  reader.event.subscribe(name, calls.fn)
  await reader.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
  b.event.emit(name, 'from bob')
  await b.wire.error('MESSAGE_DENIED')
  a.event.emit(name, 'from alice')
  assert.deepEqual(await calls.nth(1), ['from alice'])
})

suite.case('payloads of events and calls', async (t) => {
  const [a, b] = [await alice(t), await bob(t)]
  const [name, calls] = [t.name('price'), t.calls('events')]
  b.event.subscribe(name, calls.fn)
  b.rpc.provide('add', ({ a: x, b: y }, response) => response.send(x + y))
  await b.wire.acked(TOPIC.RPC, PC.PROVIDE, 'add')
  a.event.emit(name, { cost: 20 })
  await a.wire.error('MESSAGE_DENIED')
  a.event.emit(name) // without payload data.cost is a TypeError
  await a.wire.error('UNSOLICITED_MESSAGE')
  a.event.emit(name, { cost: 5 })
  assert.deepEqual(await calls.nth(1), [{ cost: 5 }])
  assert.equal(await a.rpc.make('add', { a: 1, b: 2 }), 3)
  assert.equal(await rejection(a.rpc.make('add', { a: '1', b: 2 })), 'MESSAGE_DENIED')
})
