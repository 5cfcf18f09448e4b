/** Active providers for records and events. Providers are asked in the order in which they listened. */
import assert from 'node:assert/strict'
import { EVENT_ACTION as EA, RECORD_ACTION as RA, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'

export const suite = new Suite('listen', { listen: { responseTimeout: 200, shuffleProviders: false } })

const HAS = RA.SUBSCRIPTION_HAS_PROVIDER
const HAS_NOT = RA.SUBSCRIPTION_HAS_NO_PROVIDER

/** A pattern and names that match it and no other case's. */
function space (t) {
  const base = t.name('space')
  return { pattern: `^${base}/.*`, name: (id = '1') => `${base}/${id}` }
}

/**
 * Listens and waits for the acknowledgement. `decide` gets the response ('accept' and 'reject' do what they say, 'ignore'
 * nothing); calls of the result are [name, response].
 */
async function listen (t, client, topic, pattern, decide) {
  const found = t.calls(`found by ${client.user}`)
  const stopped = t.calls(`stop at ${client.user}`)
  client[topic].listen(pattern, (name, response) => {
    response.onStop(stopped.fn)
    found.fn(name, response)
    if (decide === 'accept') response.accept()
    if (decide === 'reject') response.reject()
  })
  const [wire, action] = topic === 'record' ? [TOPIC.RECORD, RA.LISTEN] : [TOPIC.EVENT, EA.LISTEN]
  await client.wire.acked(wire, action, pattern)
  return { found, stopped }
}

async function subscribeEvent (t, client, name) {
  const calls = t.calls(`event ${name}`)
  client.event.subscribe(name, calls.fn)
  await client.wire.acked(TOPIC.EVENT, EA.SUBSCRIBE, name)
  return calls
}

const provider = (client, name, action = HAS, from = 0) => client.wire.message(TOPIC.RECORD, action, { name }, from)

suite.case('record: accepted, the subscriber has a provider', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'accept')
  const record = user.record.getRecord(name())
  assert.equal((await found.nth(1))[0], name())
  await provider(user, name())
  await t.ready(record)
  assert.equal(record.hasProvider, true)
})

suite.case('record: subscription that was there before the listener', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const record = await t.ready(user.record.getRecord(name()))
  assert.equal(record.hasProvider, false)
  await listen(t, listener, 'record', pattern, 'accept')
  await provider(user, name())
  assert.equal(record.hasProvider, true)
})

suite.case('record: provider publishes what the subscriber reads', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  listener.record.listen(pattern, (found, response) => {
    response.accept()
    listener.record.setData(found, { provided: found })
  })
  await listener.wire.acked(TOPIC.RECORD, RA.LISTEN, pattern)
  const changes = t.calls('subscription')
  user.record.getRecord(name()).subscribe('provided', changes.fn)
  assert.deepEqual(await changes.nth(1), [name()])
})

suite.case('record: several names of one pattern', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'accept')
  const ids = ['a', 'b', 'c', 'd']
  for (const id of ids) user.record.getRecord(name(id))
  await found.nth(4)
  assert.deepEqual(found.firsts.sort(), ids.map(name))
  for (const id of ids) await provider(user, name(id))
})

suite.case('record: pattern is a regular expression without anchors', async (t) => {
  const [listener, user] = await t.logins(2)
  const base = t.name('rx')
  const { found } = await listen(t, listener, 'record', `${base}/[0-9]+(x|y)$`, 'accept')
  for (const id of ['12x', 'abc', '7y', '12z', '1x/']) await t.ready(user.record.getRecord(`pre/${base}/${id}`))
  await found.nth(2)
  await listener.wire.ping()
  assert.deepEqual(found.firsts.sort(), [`pre/${base}/12x`, `pre/${base}/7y`])
})

suite.case('record: one listener is asked once for two subscribers', async (t) => {
  const [listener, one, two] = await t.logins(3)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'accept')
  one.record.getRecord(name())
  await provider(one, name())
  two.record.getRecord(name())
  await provider(two, name())
  await listener.wire.ping()
  assert.equal(found.list.length, 1)
})

suite.case('record: rejected, the next listener is asked', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  const rejects = await listen(t, first, 'record', pattern, 'reject')
  const accepts = await listen(t, second, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await provider(user, name())
  assert.deepEqual([rejects.found.list.length, accepts.found.list.length], [1, 1])
})

suite.case('record: the first that accepts is the only one asked', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, first, 'record', pattern, 'accept')
  const unused = await listen(t, second, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await provider(user, name())
  await second.wire.ping()
  assert.equal(unused.found.list.length, 0)
})

suite.case('record: all reject', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, first, 'record', pattern, 'reject')
  const last = await listen(t, second, 'record', pattern, 'reject')
  const record = await t.ready(user.record.getRecord(name()))
  await last.found.nth(1)
  await second.wire.ping()
  await user.wire.ping()
  assert.equal(record.hasProvider, false)
  assert.deepEqual(user.wire.messages(TOPIC.RECORD, HAS), [])
})

suite.case('record: a new listener is asked after all have rejected', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  const rejects = await listen(t, first, 'record', pattern, 'reject')
  user.record.getRecord(name())
  await rejects.found.nth(1)
  await first.wire.ping()
  await listen(t, second, 'record', pattern, 'accept')
  await provider(user, name())
})

suite.case('record: silent listener, the next one is asked', async (t) => {
  const [silent, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, silent, 'record', pattern, 'ignore')
  await listen(t, second, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await provider(user, name())
  const message = await silent.wire.message(TOPIC.RECORD, RA.LISTEN_RESPONSE_TIMEOUT)
  assert.equal(message.subscription, name())
  await silent.wire.error('UNSOLICITED_MESSAGE')
})

suite.case('record: stop when the last subscriber leaves', async (t) => {
  const listener = await t.login()
  const users = await t.logins(2, { recordDiscardTimeout: 10 })
  const { pattern, name } = space(t)
  const { found, stopped } = await listen(t, listener, 'record', pattern, 'accept')
  const records = users.map((user) => user.record.getRecord(name()))
  await Promise.all(records.map((record) => t.ready(record)))
  await Promise.all(users.map((user) => provider(user, name())))
  records[0].discard()
  await users[0].wire.acked(TOPIC.RECORD, RA.UNSUBSCRIBE, name())
  await listener.wire.ping()
  assert.equal(stopped.list.length, 0)
  records[1].discard()
  assert.deepEqual(await stopped.nth(1), [name()])
  assert.equal(found.list.length, 1)
})

suite.case('record: stop when the last subscriber disconnects', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const { stopped } = await listen(t, listener, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await provider(user, name())
  await user.wire.close()
  assert.deepEqual(await stopped.nth(1), [name()])
})

suite.case('record: asked again for a new subscriber after a stop', async (t) => {
  const [listener, one, two] = await t.logins(3)
  const { pattern, name } = space(t)
  const { found, stopped } = await listen(t, listener, 'record', pattern, 'accept')
  one.record.getRecord(name())
  await provider(one, name())
  await one.wire.close()
  await stopped.nth(1)
  two.record.getRecord(name())
  await found.nth(2)
  await provider(two, name())
})

suite.case('record: unlisten', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'accept')
  const record = await t.ready(user.record.getRecord(name()))
  await provider(user, name())
  listener.record.unlisten(pattern)
  await listener.wire.acked(TOPIC.RECORD, RA.UNLISTEN, pattern)
  await provider(user, name(), HAS_NOT)
  assert.equal(record.hasProvider, false)
  await t.ready(user.record.getRecord(name('2')))
  await listener.wire.ping()
  assert.equal(found.list.length, 1)
})

suite.case('record: unlisten, the next listener takes over', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, first, 'record', pattern, 'accept')
  const next = await listen(t, second, 'record', pattern, 'accept')
  const record = await t.ready(user.record.getRecord(name()))
  await provider(user, name())
  const from = user.wire.count
  first.record.unlisten(pattern)
  await next.found.nth(1)
  await provider(user, name(), HAS, from)
  assert.equal(record.hasProvider, true)
})

suite.case('record: provider disconnects', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  await listen(t, listener, 'record', pattern, 'accept')
  const record = await t.ready(user.record.getRecord(name()))
  await provider(user, name())
  await listener.wire.close()
  await provider(user, name(), HAS_NOT)
  assert.equal(record.hasProvider, false)
})

suite.case('record: provider crashes, the next listener takes over', async (t) => {
  const [second, user] = await t.logins(2)
  const raw = await t.rawLogin()
  const { pattern, name } = space(t)
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN, name: pattern })
  await raw.message(TOPIC.RECORD, RA.LISTEN)
  const next = await listen(t, second, 'record', pattern, 'accept')
  const record = await t.ready(user.record.getRecord(name()))
  await raw.message(TOPIC.RECORD, RA.SUBSCRIPTION_FOR_PATTERN_FOUND, { subscription: name() })
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN_ACCEPT, name: pattern, subscription: name() })
  await provider(user, name())
  const from = user.wire.count
  await raw.close()
  await provider(user, name(), HAS_NOT, from)
  await next.found.nth(1)
  await provider(user, name(), HAS, from)
  assert.equal(record.hasProvider, true)
})

suite.case('record: listener crashes while it is asked', async (t) => {
  const [second, user] = await t.logins(2)
  const raw = await t.rawLogin()
  const { pattern, name } = space(t)
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN, name: pattern })
  await raw.message(TOPIC.RECORD, RA.LISTEN)
  await listen(t, second, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await raw.message(TOPIC.RECORD, RA.SUBSCRIPTION_FOR_PATTERN_FOUND, { subscription: name() })
  await raw.close()
  await provider(user, name())
}, { oracle: 'a disconnecting listener clears the candidates of all searches' })

suite.case('record: other listener leaves during a search', async (t) => {
  const [asked, bystander, next, user] = await t.logins(4)
  const { pattern, name } = space(t)
  const first = await listen(t, asked, 'record', pattern, 'ignore')
  await listen(t, bystander, 'record', pattern, 'accept')
  await listen(t, next, 'record', pattern, 'accept')
  user.record.getRecord(name())
  const [, response] = await first.found.nth(1)
  bystander.record.unlisten(pattern)
  await bystander.wire.acked(TOPIC.RECORD, RA.UNLISTEN, pattern)
  response.reject()
  await provider(user, name())
}, { oracle: 'a listener that leaves clears the candidates of all searches' })

suite.case('record: late subscriber is told of the provider before it is ready', async (t) => {
  const [listener, one, two] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, listener, 'record', pattern, 'accept')
  one.record.getRecord(name())
  await provider(one, name())
  const record = await t.ready(two.record.getRecord(name()))
  assert.equal(record.hasProvider, true)
})

suite.case('record: listener that subscribes itself is asked', async (t) => {
  const client = await t.login()
  const { pattern, name } = space(t)
  const { found } = await listen(t, client, 'record', pattern, 'accept')
  client.record.getRecord(name())
  await found.nth(1)
  await provider(client, name())
})

suite.case('record: two patterns of one client', async (t) => {
  const [client, user] = await t.logins(2)
  const [one, two] = [space(t), space(t)]
  const first = await listen(t, client, 'record', one.pattern, 'accept')
  const second = await listen(t, client, 'record', two.pattern, 'accept')
  user.record.getRecord(one.name())
  user.record.getRecord(two.name())
  assert.equal((await first.found.nth(1))[0], one.name())
  assert.equal((await second.found.nth(1))[0], two.name())
})

suite.case('record: lists have providers too', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  await listen(t, listener, 'record', pattern, 'accept')
  user.record.getList(name())
  await provider(user, name())
})

suite.case('record: invalid pattern', async (t) => {
  const raw = await t.rawLogin()
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN, name: 'a(b' })
  assert.deepEqual(await raw.message(TOPIC.RECORD, RA.INVALID_LISTEN_REGEX), { topic: TOPIC.RECORD, action: RA.INVALID_LISTEN_REGEX, name: 'a(b' })
  await raw.ping()
  assert.deepEqual(raw.messages.list, [])
})

suite.case('record: pattern needing exponential time is harmless', async (t) => {
  const [listener, user] = await t.logins(2)
  await listen(t, listener, 'record', '^(a+)+$', 'reject')
  await t.ready(user.record.getRecord('a'.repeat(200) + '!'))
  await user.wire.ping()
}, { oracle: 'such a pattern stops the process' })

suite.case('record: silent listeners get another chance by the rematch timer', async (t) => {
  const server = await t.server({ config: { listen: { responseTimeout: 200, rematchInterval: 1100, matchCooldown: 0 } } })
  const listener = await t.login({}, {}, server.url)
  const user = await t.login({}, {}, server.url)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'reject')
  user.record.getRecord(name())
  await found.nth(2)
})

suite.case('record: answers on the wire', async (t) => {
  const raw = await t.rawLogin()
  const user = await t.login()
  const { pattern, name } = space(t)
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN, name: pattern })
  assert.deepEqual(await raw.message(TOPIC.RECORD, RA.LISTEN), { topic: TOPIC.RECORD, action: RA.LISTEN, isAck: true, name: pattern })
  await t.ready(user.record.getRecord(name()))
  assert.deepEqual(await raw.message(TOPIC.RECORD, RA.SUBSCRIPTION_FOR_PATTERN_FOUND),
    { topic: TOPIC.RECORD, action: RA.SUBSCRIPTION_FOR_PATTERN_FOUND, name: pattern, subscription: name() })
  raw.send({ topic: TOPIC.RECORD, action: RA.LISTEN_ACCEPT, name: pattern, subscription: name() })
  await provider(user, name())
  await user.wire.close()
  assert.deepEqual(await raw.message(TOPIC.RECORD, RA.SUBSCRIPTION_FOR_PATTERN_REMOVED),
    { topic: TOPIC.RECORD, action: RA.SUBSCRIPTION_FOR_PATTERN_REMOVED, name: pattern, subscription: name() })
  raw.send({ topic: TOPIC.RECORD, action: RA.UNLISTEN, name: pattern })
  assert.deepEqual(await raw.message(TOPIC.RECORD, RA.UNLISTEN), { topic: TOPIC.RECORD, action: RA.UNLISTEN, isAck: true, name: pattern })
})

for (const [label, topic, actions] of [['record', TOPIC.RECORD, RA], ['event', TOPIC.EVENT, EA]]) {
  suite.case(`${label}: repeated listen is answered MULTIPLE_SUBSCRIPTIONS`, async (t) => {
    const raw = await t.rawLogin()
    const { pattern } = space(t)
    raw.send({ topic, action: actions.LISTEN, name: pattern })
    await raw.message(topic, actions.LISTEN)
    raw.send({ topic, action: actions.LISTEN, name: pattern })
    const error = await raw.message(topic, actions.MULTIPLE_SUBSCRIPTIONS)
    assert.deepEqual([error.name, error.originalAction], [pattern, actions.LISTEN])
  }, { oracle: 'a repeated listen ends the process' })

  suite.case(`${label}: unlisten of an unknown pattern is answered NOT_SUBSCRIBED`, async (t) => {
    const raw = await t.rawLogin()
    const { pattern } = space(t)
    raw.send({ topic, action: actions.UNLISTEN, name: pattern })
    const error = await raw.message(topic, actions.NOT_SUBSCRIBED)
    assert.deepEqual([error.name, error.originalAction], [pattern, actions.UNLISTEN])
  }, { oracle: 'does not answer' })
}

suite.case('record: acceptance by a client that was not asked is ignored', async (t) => {
  const [thief, user, listener] = [await t.rawLogin(), await t.login(), await t.login()]
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'record', pattern, 'ignore')
  user.record.getRecord(name())
  const [, response] = await found.nth(1)
  thief.send({ topic: TOPIC.RECORD, action: RA.LISTEN_ACCEPT, name: pattern, subscription: name() })
  await thief.ping()
  await user.wire.ping()
  assert.deepEqual(user.wire.messages(TOPIC.RECORD, HAS), [])
  response.accept()
  await provider(user, name())
}, { oracle: 'anybody can accept a running search' })

suite.case('record: too late acceptance is answered by a stop', async (t) => {
  const [late, next, user] = await t.logins(3)
  const { pattern, name } = space(t)
  const first = await listen(t, late, 'record', pattern, 'ignore')
  await listen(t, next, 'record', pattern, 'accept')
  user.record.getRecord(name())
  await provider(user, name())
  await late.wire.error('UNSOLICITED_MESSAGE')
  first.found.list[0][1].accept()
  assert.deepEqual(await first.stopped.nth(1), [name()])
}, { oracle: 'a late acceptance is ignored without a word' })

suite.case('event: accepted, published, stopped', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const stopped = t.calls('stop')
  listener.event.listen(pattern, (found, response) => {
    response.accept()
    response.onStop(stopped.fn)
    listener.event.emit(found, { from: 'provider' })
  })
  await listener.wire.acked(TOPIC.EVENT, EA.LISTEN, pattern)
  const calls = await subscribeEvent(t, user, name())
  assert.deepEqual(await calls.nth(1), [{ from: 'provider' }])
  user.event.unsubscribe(name(), calls.fn)
  assert.deepEqual(await stopped.nth(1), [name()])
})

suite.case('event: subscription that was there before the listener', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  await subscribeEvent(t, user, name())
  const { found } = await listen(t, listener, 'event', pattern, 'accept')
  assert.equal((await found.nth(1))[0], name())
})

suite.case('event: rejected, the next listener is asked', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, first, 'event', pattern, 'reject')
  const next = await listen(t, second, 'event', pattern, 'accept')
  await subscribeEvent(t, user, name())
  assert.equal((await next.found.nth(1))[0], name())
})

suite.case('event: silent listener, the next one is asked', async (t) => {
  const [silent, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  await listen(t, silent, 'event', pattern, 'ignore')
  const next = await listen(t, second, 'event', pattern, 'accept')
  await subscribeEvent(t, user, name())
  await next.found.nth(1)
  assert.equal((await silent.wire.message(TOPIC.EVENT, EA.LISTEN_RESPONSE_TIMEOUT)).subscription, name())
  await silent.wire.error('UNSOLICITED_MESSAGE')
})

suite.case('event: provider disconnects, the next listener takes over', async (t) => {
  const [first, second, user] = await t.logins(3)
  const { pattern, name } = space(t)
  const provides = await listen(t, first, 'event', pattern, 'accept')
  const next = await listen(t, second, 'event', pattern, 'accept')
  await subscribeEvent(t, user, name())
  await provides.found.nth(1)
  await first.wire.ping()
  await first.wire.close()
  assert.equal((await next.found.nth(1))[0], name())
})

suite.case('event: unlisten', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const { found } = await listen(t, listener, 'event', pattern, 'accept')
  listener.event.unlisten(pattern)
  await listener.wire.acked(TOPIC.EVENT, EA.UNLISTEN, pattern)
  await subscribeEvent(t, user, name())
  await listener.wire.ping()
  assert.equal(found.list.length, 0)
})

suite.case('event: invalid pattern', async (t) => {
  const client = await t.login()
  client.event.listen('a(b', () => {})
  await client.wire.error('INVALID_LISTEN_REGEX')
})

suite.case('event and record listeners do not mix', async (t) => {
  const [listener, user] = await t.logins(2)
  const { pattern, name } = space(t)
  const records = await listen(t, listener, 'record', pattern, 'accept')
  const events = await listen(t, listener, 'event', pattern, 'accept')
  await subscribeEvent(t, user, name('event'))
  user.record.getRecord(name('record'))
  await Promise.all([records.found.nth(1), events.found.nth(1)])
  assert.deepEqual([records.found.firsts, events.found.firsts], [[name('record')], [name('event')]])
})
