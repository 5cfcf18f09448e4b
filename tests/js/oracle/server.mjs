/**
 * The reference server with the same users, permissions and command line as tests/js_server.py, so that a client case can
 * be run against both. Prints one JSON line {"ready": true, "port": N}; stops on SIGTERM.
 *
 *   node server.mjs --port 0 [--config JSON] [--data-dir DIR]
 *
 * Records are kept in a file, with --data-dir in that directory; users are then open, as with `dsfast serve --data-dir`.
 */
import { EventEmitter, once } from 'node:events'
import { createRequire } from 'node:module'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const require = createRequire(import.meta.url)
const { Deepstream } = require('@deepstream/server')
const { DeepstreamPlugin } = require('@deepstream/types')

/** The rules of TestAuthentication in tests/js_server.py. */
class TestAuthentication extends DeepstreamPlugin {
  description = 'test users'
  logins = new Map()
  gates = new EventEmitter()

  async isValidUser (connectionData, login) {
    if ('refuse' in login) return { isValid: false, clientData: login.refuse }
    if ('password' in login && login.password !== 'secret') return { isValid: false }
    if (login.unknown) return null
    if (login.crash) throw new Error('authentication crashed on purpose')
    if ('release' in login) this.gates.emit(login.release)
    if ('hold' in login) await once(this.gates, login.hold)
    const count = (this.logins.get(login.username) || 0) + 1
    this.logins.set(login.username, count)
    if (login.once && count > 1) return { isValid: false, clientData: { error: 'only one login' } }
    const answer = { isValid: true, id: login.username }
    if ('clientData' in login) answer.clientData = login.clientData
    if (login.count) answer.clientData = { login: count }
    return answer
  }
}

/** The rules of TestPermission in tests/js_server.py. */
class TestPermission extends DeepstreamPlugin {
  description = 'test permissions'

  canPerformAction (socket, message, callback, passItOn) {
    const name = message.name || ''
    const error = name.includes('broken') ? 'permission crashed on purpose' : null
    const decide = () => callback(socket, message, passItOn, error, error === null && !name.includes('forbidden'))
    if (name.includes('slow')) setImmediate(decide)
    else decide()
  }
}

/** Records in memory, every change appended to a file that is read at start. */
class FileStorage extends DeepstreamPlugin {
  description = 'test file storage'
  records = new Map()

  constructor (directory) {
    super()
    mkdirSync(directory, { recursive: true })
    this.file = join(directory, 'records.jsonl')
    if (!existsSync(this.file)) return
    for (const line of readFileSync(this.file, 'utf8').split('\n').filter(Boolean)) {
      const { name, version, data } = JSON.parse(line)
      if (version === -1) this.records.delete(name)
      else this.records.set(name, { version, text: JSON.stringify(data) })
    }
  }

  set (name, version, data, callback) {
    appendFileSync(this.file, JSON.stringify({ name, version, data }) + '\n')
    this.records.set(name, { version, text: JSON.stringify(data) })
    process.nextTick(callback, null)
  }

  get (name, callback) {
    const record = this.records.get(name)
    process.nextTick(callback, null, record ? record.version : -1, record ? JSON.parse(record.text) : null)
  }

  delete (name, callback) {
    appendFileSync(this.file, JSON.stringify({ name, version: -1 }) + '\n')
    this.records.delete(name)
    process.nextTick(callback, null)
  }

  deleteBulk (names, callback) {
    for (const name of names) this.delete(name, () => {})
    process.nextTick(callback, null)
  }
}

const freePort = () => new Promise((resolve, reject) => {
  const probe = createServer().once('error', reject)
  probe.listen(0, '127.0.0.1', () => {
    const { port } = probe.address()
    probe.close(() => resolve(port))
  })
})

const { values } = parseArgs({
  options: { port: { type: 'string', default: '0' }, config: { type: 'string', default: '{}' }, 'data-dir': { type: 'string' } }
})
const { websocket = {}, ...config } = JSON.parse(values.config)
const port = Number(values.port) || await freePort()
const server = new Deepstream({
  ...config,
  showLogo: false,
  logLevel: 2,
  httpServer: { type: 'default', options: { host: '127.0.0.1', port } },
  connectionEndpoints: [
    { type: 'ws-binary', options: websocket },
    // It does not fill in defaults here.
    { type: 'http', options: { enableAuthEndpoint: true, authPath: '/api/auth', postPath: '/api', getPath: '/api', allowAuthData: true } }
  ]
})
const directory = values['data-dir'] ?? mkdtempSync(join(tmpdir(), 'dsfast-oracle-'))
server.set('storage', new FileStorage(directory))
if (!values['data-dir']) {
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  if (!config.auth) server.set('authentication', new TestAuthentication())
  if (!config.permission) server.set('permission', new TestPermission())
}
server.on('started', () => console.log(JSON.stringify({ ready: true, port })))
server.on('stopped', () => process.exit(0))
process.on('SIGTERM', () => server.stop())
server.start()
