/** Request and response. The server's time limits are short so that the timeout cases end soon. */
import assert from 'node:assert/strict'
import { RPC_ACTION, TOPIC } from '../lib/client.mjs'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('rpc', { rpc: { ackTimeout: 200, responseTimeout: 500 } })

async function provide (client, name, handler) {
  client.rpc.provide(name, handler)
  await client.wire.acked(TOPIC.RPC, RPC_ACTION.PROVIDE, name)
}

async function rawProvide (raw, name) {
  raw.send({ topic: TOPIC.RPC, action: RPC_ACTION.PROVIDE, names: [name], correlationId: '0' })
  await raw.message(TOPIC.RPC, RPC_ACTION.PROVIDE)
}

const answer = (raw, action, request, extra = {}) =>
  raw.send({ topic: TOPIC.RPC, action, name: request.name, correlationId: request.correlationId, ...extra })

suite.case('make gets the response of the provider', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('add')
  await provide(provider, name, ({ a, b }, response) => response.send(a + b))
  assert.equal(await caller.rpc.make(name, { a: 1, b: 2 }), 3)
})

suite.case('make with a callback', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('callback')
  const calls = t.calls('rpc callback')
  await provide(provider, name, (data, response) => response.send([data]))
  caller.rpc.make(name, 'x', calls.fn)
  assert.deepEqual(await calls.nth(1), [null, ['x']])
})

for (const [label, payload] of Object.entries({
  undefined, null: null, false: false, zero: 0, 'empty string': '', unicode: 'ü日😀', nested: { a: [{ b: null }] }, large: 'x'.repeat(300000)
})) {
  suite.case(`payload both ways: ${label}`, async (t) => {
    const [provider, caller] = await t.logins(2)
    const name = t.name('echo')
    const seen = t.calls('provider')
    await provide(provider, name, (data, response) => {
      seen.fn(data)
      response.send(data)
    })
    assert.deepStrictEqual(await caller.rpc.make(name, payload), payload)
    assert.deepStrictEqual(seen.firsts, [payload])
  })
}

suite.case('error of the provider rejects the call with its value', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('error')
  await provide(provider, name, (data, response) => response.error({ code: 7 }))
  assert.deepEqual(await rejection(caller.rpc.make(name, 1)), { code: 7 })
})

suite.case('no provider', async (t) => {
  const caller = await t.login()
  assert.equal(await rejection(caller.rpc.make(t.name('nobody'), 1)), 'NO_RPC_PROVIDER')
})

suite.case('rejection by the only provider', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('reject')
  await provide(provider, name, (data, response) => response.reject())
  assert.equal(await rejection(caller.rpc.make(name, 1)), 'NO_RPC_PROVIDER')
})

suite.case('rejected calls go to another provider', async (t) => {
  const [refuses, works, caller] = await t.logins(3)
  const name = t.name('reroute')
  await provide(refuses, name, (data, response) => response.reject())
  await provide(works, name, (data, response) => response.send(data * 2))
  for (let n = 0; n < 20; n++) assert.equal(await caller.rpc.make(name, n), n * 2)
})

suite.case('every provider is asked before the call fails', async (t) => {
  const [caller, ...providers] = await t.logins(5)
  const name = t.name('all')
  const asked = t.calls('providers')
  for (const provider of providers) {
    await provide(provider, name, (data, response) => {
      asked.fn(provider.user)
      response.reject()
    })
  }
  assert.equal(await rejection(caller.rpc.make(name, 1)), 'NO_RPC_PROVIDER')
  assert.deepEqual(asked.firsts.sort(), providers.map((provider) => provider.user).sort())
})

suite.case('accept timeout', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('silent')
  await provide(provider, name, (data, response) => { response.autoAccept = false })
  assert.equal(await rejection(caller.rpc.make(name, 1)), 'ACCEPT_TIMEOUT')
})

suite.case('response timeout', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('slow')
  await provide(provider, name, (data, response) => response.accept())
  assert.equal(await rejection(caller.rpc.make(name, 1)), 'RESPONSE_TIMEOUT')
})

suite.case('response after the accept timeout would have ended', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('later')
  await provide(provider, name, (data, response) => {
    response.accept()
    setTimeout(() => response.send('late but in time'), 300)
  })
  assert.equal(await caller.rpc.make(name, 1), 'late but in time')
})

suite.case('unprovide', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('unprovide')
  await provide(provider, name, (data, response) => response.send(1))
  assert.equal(await caller.rpc.make(name, 1), 1)
  provider.rpc.unprovide(name)
  await provider.wire.acked(TOPIC.RPC, RPC_ACTION.UNPROVIDE, name)
  assert.equal(await rejection(caller.rpc.make(name, 1)), 'NO_RPC_PROVIDER')
})

suite.case('provide again after unprovide', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('again')
  await provide(provider, name, (data, response) => response.send(1))
  provider.rpc.unprovide(name)
  await provider.wire.acked(TOPIC.RPC, RPC_ACTION.UNPROVIDE, name)
  await provide(provider, name, (data, response) => response.send(2))
  assert.equal(await caller.rpc.make(name, 1), 2)
})

suite.case('a client may call its own procedure', async (t) => {
  const client = await t.login()
  const name = t.name('self')
  await provide(client, name, (data, response) => response.send(data + 1))
  assert.equal(await client.rpc.make(name, 1), 2)
})

suite.case('a provider may call another procedure', async (t) => {
  const [outer, inner, caller] = await t.logins(3)
  const [first, second] = [t.name('outer'), t.name('inner')]
  await provide(inner, second, (data, response) => response.send(`inner ${data}`))
  await provide(outer, first, async (data, response) => response.send(`outer ${await outer.rpc.make(second, data)}`))
  assert.equal(await caller.rpc.make(first, 'x'), 'outer inner x')
})

suite.case('two hundred calls at once get their own answers', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('parallel')
  await provide(provider, name, (data, response) => setImmediate(() => response.send(data * 3)))
  const results = await Promise.all(Array.from({ length: 200 }, (_, n) => caller.rpc.make(name, n)))
  assert.deepEqual(results, Array.from({ length: 200 }, (_, n) => n * 3))
})

suite.case('answers in another order than the calls', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('backwards')
  const open = []
  await provide(provider, name, (data, response) => {
    open.push([data, response])
    if (open.length === 20) for (const [value, late] of open.reverse()) late.send(value)
  })
  const results = await Promise.all(Array.from({ length: 20 }, (_, n) => caller.rpc.make(name, n)))
  assert.deepEqual(results, Array.from({ length: 20 }, (_, n) => n))
})

suite.case('calls are spread over the providers', async (t) => {
  const [caller, ...providers] = await t.logins(4)
  const name = t.name('spread')
  for (const [index, provider] of providers.entries()) await provide(provider, name, (data, response) => response.send(index))
  const results = await Promise.all(Array.from({ length: 100 }, () => caller.rpc.make(name, 1)))
  assert.deepEqual([...new Set(results)].sort(), [0, 1, 2])
})

suite.case('provider goes away before it accepted: another one is asked', async (t) => {
  const [gone, caller] = await t.logins(2)
  const name = t.name('gone')
  await provide(gone, name, (data, response) => {
    response.autoAccept = false
    gone.wire.close()
  })
  const calls = caller.rpc.make(name, 1)
  await gone.wire.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  assert.equal(await rejection(calls), 'NO_RPC_PROVIDER')
}, { oracle: 'the caller waits for the accept timeout' })

suite.case('provider goes away, the second one answers', async (t) => {
  const [caller, ...providers] = await t.logins(3)
  const name = t.name('second')
  let first = true
  for (const provider of providers) {
    await provide(provider, name, (data, response) => {
      if (!first) return response.send('second')
      first = false
      response.autoAccept = false
      return provider.wire.close()
    })
  }
  assert.equal(await caller.rpc.make(name, 1), 'second')
}, { oracle: 'the caller waits for the accept timeout' })

suite.case('provider goes away after it accepted: response timeout', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('accepted')
  await provide(provider, name, (data, response) => response.accept())
  const call = rejection(caller.rpc.make(name, 1))
  await caller.wire.message(TOPIC.RPC, RPC_ACTION.ACCEPT)
  await provider.wire.close()
  assert.equal(await call, 'RESPONSE_TIMEOUT')
})

suite.case('caller goes away: the provider can go on', async (t) => {
  const [provider, caller, other] = await t.logins(3)
  const name = t.name('caller gone')
  const asked = t.calls('provider')
  await provide(provider, name, (data, response) => data === 'first' ? asked.fn(response) : response.send(data))
  caller.rpc.make(name, 'first', () => {})
  const [response] = await asked.nth(1)
  await caller.wire.close()
  response.send('nobody waits')
  assert.equal(await other.rpc.make(name, 'second'), 'second')
  provider.wire.errors.list.length = 0 // an unknown correlation id may be reported
})

suite.case('requestor name and data are hidden by default', async (t) => {
  const [provider, caller] = await t.logins(2)
  const name = t.name('hidden')
  await provide(provider, name, (data, response, requestor) => response.send(requestor === undefined))
  assert.equal(await caller.rpc.make(name, 1), true)
})

suite.case('requestor name and data when the configuration says so', async (t) => {
  const server = await t.server({ config: { rpc: { provideRequestorName: true, provideRequestorData: true } } })
  const provider = await t.login({}, {}, server.url)
  const caller = await t.login({ username: 'carla', clientData: { role: 'tester' } }, {}, server.url)
  const name = t.name('requestor')
  await provide(provider, name, (data, response, requestor) => response.send(requestor))
  assert.deepEqual(await caller.rpc.make(name, 1), { requestorName: 'carla', requestorData: { role: 'tester' } })
})

suite.case('requestor name sent by the caller is not passed on', async (t) => {
  const [provider, caller] = [await t.rawLogin(), await t.rawLogin()]
  const name = t.name('spoof')
  await rawProvide(provider, name)
  caller.send({ topic: TOPIC.RPC, action: RPC_ACTION.REQUEST, name, correlationId: 'c', data: '1', requestorName: 'admin', requestorData: { admin: 1 } })
  const request = await provider.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  assert.equal(request.requestorName, undefined)
  assert.equal(request.requestorData, undefined)
}, { oracle: 'passes the fields of the caller on' })

suite.case('acknowledgements and repeated provide on the wire', async (t) => {
  const raw = await t.rawLogin()
  const name = t.name('wire')
  raw.send({ topic: TOPIC.RPC, action: RPC_ACTION.PROVIDE, names: [name], correlationId: '5' })
  assert.deepEqual(await raw.message(TOPIC.RPC, RPC_ACTION.PROVIDE), { topic: TOPIC.RPC, action: RPC_ACTION.PROVIDE, correlationId: '5', isAck: true })
  raw.send({ topic: TOPIC.RPC, action: RPC_ACTION.PROVIDE, names: [name], correlationId: '6' })
  await raw.messages.find((message) => message.isAck, 'ack')
  const [error, ack] = raw.messages.list
  assert.deepEqual([error.action, error.name, error.originalAction], [RPC_ACTION.MULTIPLE_PROVIDERS, name, RPC_ACTION.PROVIDE])
  assert.equal(ack.correlationId, '6')
})

suite.case('second accept is answered MULTIPLE_ACCEPT', async (t) => {
  const [provider, caller] = [await t.rawLogin(), await t.login()]
  const name = t.name('accept')
  await rawProvide(provider, name)
  const call = caller.rpc.make(name, 1)
  const request = await provider.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  answer(provider, RPC_ACTION.ACCEPT, request)
  answer(provider, RPC_ACTION.ACCEPT, request)
  const error = await provider.message(TOPIC.RPC, RPC_ACTION.MULTIPLE_ACCEPT)
  assert.equal(error.name, name)
  answer(provider, RPC_ACTION.RESPONSE, request, { data: '"done"' })
  assert.equal(await call, 'done')
  assert.equal(caller.wire.messages(TOPIC.RPC, RPC_ACTION.ACCEPT).length, 1)
})

suite.case('answer to an unknown call is refused', async (t) => {
  const raw = await t.rawLogin()
  for (const action of [RPC_ACTION.ACCEPT, RPC_ACTION.REJECT, RPC_ACTION.RESPONSE, RPC_ACTION.REQUEST_ERROR]) {
    answer(raw, action, { name: 'x', correlationId: 'unknown' }, action === RPC_ACTION.RESPONSE ? { data: '1' } : {})
    const error = await raw.message(TOPIC.RPC, RPC_ACTION.INVALID_RPC_CORRELATION_ID)
    assert.deepEqual([error.name, error.correlationId, error.originalAction, error.isError], ['x', 'unknown', action, true])
  }
})

suite.case('a third client cannot answer a call', async (t) => {
  const [provider, thief, caller] = [await t.rawLogin(), await t.rawLogin(), await t.rawLogin()]
  const name = t.name('thief')
  await rawProvide(provider, name)
  caller.send({ topic: TOPIC.RPC, action: RPC_ACTION.REQUEST, name, correlationId: 'guessed', data: '1' })
  const request = await provider.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  answer(thief, RPC_ACTION.RESPONSE, request, { data: '"stolen"' })
  await thief.message(TOPIC.RPC, RPC_ACTION.INVALID_RPC_CORRELATION_ID)
  answer(provider, RPC_ACTION.RESPONSE, request, { data: '"true"' })
  assert.equal((await caller.message(TOPIC.RPC, RPC_ACTION.RESPONSE)).data, '"true"')
}, { oracle: 'any client may answer any call' })

suite.case('equal correlation ids of two callers do not mix', async (t) => {
  const [provider, first, second] = [await t.rawLogin(), await t.rawLogin(), await t.rawLogin()]
  const name = t.name('same id')
  await rawProvide(provider, name)
  first.send({ topic: TOPIC.RPC, action: RPC_ACTION.REQUEST, name, correlationId: 'same', data: '1' })
  const one = await provider.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  second.send({ topic: TOPIC.RPC, action: RPC_ACTION.REQUEST, name, correlationId: 'same', data: '2' })
  const two = await provider.message(TOPIC.RPC, RPC_ACTION.REQUEST)
  answer(provider, RPC_ACTION.RESPONSE, two, { data: '"for 2"' })
  answer(provider, RPC_ACTION.RESPONSE, one, { data: '"for 1"' })
  assert.equal((await first.message(TOPIC.RPC, RPC_ACTION.RESPONSE, { correlationId: 'same' })).data, '"for 1"')
  assert.equal((await second.message(TOPIC.RPC, RPC_ACTION.RESPONSE, { correlationId: 'same' })).data, '"for 2"')
}, { oracle: 'the second call replaces the first' })
