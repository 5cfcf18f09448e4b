/** Authentication `file` with the users that deepstream.io ships. tests/test_js_users_file.py runs it on files. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('users', {
  auth: [{
    type: 'file',
    options: {
      hash: 'md5',
      iterations: 100,
      keyLength: 32,
      users: {
        userA: {
          password: 'rCOSZxJrgze2AZdVQh12c6ErDMOG0M+Rx5Yu7S5d91c=GS4SbTQYmoaGwjm2shEobg==',
          serverData: { someOptional: 'auth-data' },
          clientData: { favouriteColor: 'red' }
        },
        userB: { password: 'jHPg24EDs9SKHALytrfaoEvDyz7wJgSVEY0ANaw/LgA=m5Ilfg/3+yN5j38tx8cBfA==' }
      }
    }
  }]
})

const DEFAULT_REASON = { reason: 'INVALID_AUTHENTICATION_DETAILS' }

suite.case('right password', async (t) => {
  const client = t.client()
  assert.deepEqual(await client.login({ username: 'userA', password: 'password' }), { favouriteColor: 'red' })
  assert.equal(client.getConnectionState(), 'OPEN')
  assert.equal(await t.client().login({ username: 'userB', password: 'userBPass' }), null)
})

suite.case('a user is known by its name', async (t) => {
  const a = t.client()
  await a.login({ username: 'userA', password: 'password' })
  const b = t.client()
  await b.login({ username: 'userB', password: 'userBPass' })
  await t.until(async () => (await b.presence.getAll()).includes('userA'), 'userA is online')
})

suite.case('wrong password and unknown user cannot be told apart', async (t) => {
  for (const [username, password] of [['userA', 'userBPass'], ['nobody', 'password'], ['__proto__', 'password']]) {
    const client = t.client()
    assert.deepEqual(await rejection(client.login({ username, password })), DEFAULT_REASON)
    assert.equal(client.getConnectionState(), 'AWAITING_AUTHENTICATION')
  }
}, { oracle: 'ends when the user is called __proto__' })

suite.case('missing parameters are named', async (t) => {
  for (const data of [{}, { username: 'userA' }, { password: 'password' }, { username: 'userA', password: 7 }]) {
    assert.deepEqual(await rejection(t.client().login(data)), {
      reason: { error: 'missing authentication parameter: username or/and password' }
    })
  }
})

suite.case('three wrong passwords', async (t) => {
  const client = t.client()
  for (const password of ['a', 'b', 'c']) {
    assert.deepEqual(await rejection(client.login({ username: 'userA', password })), DEFAULT_REASON)
  }
  await client.wire.error('TOO_MANY_AUTH_ATTEMPTS')
  assert.equal(client.getConnectionState(), 'TOO_MANY_AUTH_ATTEMPTS')
})
