/** Authentication `storage`: the first login creates the user. */
import assert from 'node:assert/strict'
import { Suite } from '../lib/harness.mjs'
import { rejection } from '../lib/wait.mjs'

export const suite = new Suite('registration', {
  auth: [{
    type: 'storage',
    options: { table: 'users', createUser: true, hash: 'sha512', iterations: 100, keyLength: 32 }
  }]
})

suite.case('the first login creates the user and the next ones need its password', async (t) => {
  const username = t.name('user')
  const first = await t.client().login({ username, password: 'secret' })
  assert.match(first.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.deepEqual(await t.client().login({ username, password: 'secret' }), first)
  assert.deepEqual(await rejection(t.client().login({ username, password: 'wrong' })), {
    reason: 'INVALID_AUTHENTICATION_DETAILS'
  })
})

suite.case('first logins at the same time are one user', async (t) => {
  const username = t.name('user')
  const logins = Array.from({ length: 10 }, () => t.client().login({ username, password: 'secret' }))
  const ids = new Set((await Promise.all(logins)).map(({ id }) => id))
  assert.equal(ids.size, 1)
}, { oracle: 'creates a user for each of them' })

suite.case('what is missing is named', async (t) => {
  const missing = async (data) => (await rejection(t.client().login(data))).reason.error
  assert.equal(await missing({}), 'missing authentication parameters: username password')
  assert.equal(await missing({ username: 'peter' }), 'missing authentication parameters: password')
}, { oracle: 'prints the word false' })
