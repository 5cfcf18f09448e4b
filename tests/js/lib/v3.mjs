/** The client of before version 4 (deepstream.io-client-js), unmodified, with a tap on its sockets. */
import { createRequire } from 'node:module'
import { connect as connectBinary, state } from './client.mjs'     // also takes away the browser-like WebSocket
import { Context } from './harness.mjs'
import { bounded, Inbox } from './wait.mjs'

const require = createRequire(import.meta.url)
const deepstream = require('deepstream.io-client-js')

export const { MERGE_STRATEGIES } = deepstream
const CLOSED = 3

/** Lines as they are written in the specification, `|` for the separator. */
const lines = (data) => data.replaceAll('\x1f', '|').split('\x1e').filter(Boolean)

class Wire {
  received = new Inbox('received lines')
  sent = new Inbox('sent lines')
  frames = new Inbox('sent frames')
  /** Error events that no case has claimed: [value, event, topic]. */
  errors = new Inbox('error events')
  states = new Inbox('states')
  sockets = []
  connectionErrorsAllowed = false

  constructor (client) {
    this.client = client
    const connection = client._connection
    const create = connection._createEndpoint
    this.tap(connection._endpoint)
    connection._createEndpoint = () => {
      create.call(connection)
      this.tap(connection._endpoint)
    }
    client.on('error', (...error) => {
      if (!(this.connectionErrorsAllowed && error[1] === 'connectionError')) this.errors.push(error)
    })
    client.on('connectionStateChanged', (now) => this.states.push(now))
  }

  tap (socket) {
    this.sockets.push(socket)
    socket.on('message', (data) => this.received.push(...lines(String(data))))
    const send = socket.send
    socket.send = (data) => {
      this.sent.push(...lines(data))
      this.frames.push(lines(data))
      send.call(socket, data)
    }
  }

  /** The line, past or future. */
  line (wanted) {
    return this.received.find((line) => line === wanted, wanted)
  }

  /** Resolves when the server has answered a ping, so everything it had sent to this client before has arrived. */
  async ping () {
    const from = this.received.list.length
    this.sockets.at(-1).send('C\x1fPI\x1e')
    await this.received.find((line) => line === 'C|PO', 'C|PO', { from })
  }

  /** Waits for an error event of the client and takes it out of the unexpected ones. */
  error (event) {
    return this.errors.take(([, name]) => name === event, event)
  }

  /** Breaks the connection as a network would; the client reconnects by itself. */
  drop () {
    this.connectionErrorsAllowed = true
    this.sockets.at(-1).terminate()
  }

  /** Closes the client for good. */
  async close () {
    this.connectionErrorsAllowed = true
    this.client._connection._options.maxReconnectAttempts = 0
    const open = this.sockets.filter((socket) => socket.readyState < CLOSED)
    const closed = Promise.all(open.map((socket) => new Promise((resolve) => socket.once('close', resolve))))
    this.client.close()
    await bounded(closed, () => 'end of the closing handshake')
  }
}

/** A client that reconnects fast. Error events that a case does not claim fail it. */
function connect (url, options = {}) {
  const client = deepstream(`${url}/deepstream-v3`, {
    silentDeprecation: true,
    reconnectIntervalIncrement: 20,
    maxReconnectInterval: 100,
    maxReconnectAttempts: 1000,
    ...options
  })
  client.wire = new Wire(client)
  return client
}

/** What cases of this client get. */
export class V3Context extends Context {
  client (options = {}, url = this.url) {
    const client = connect(url, options)
    this.clients.push(client)
    this.onEnd(() => client.wire.close())
    return client
  }

  async login (credentials = {}, options = {}, url = this.url) {
    const client = this.client(options, url)
    client.user = credentials.username ?? this.name('user')
    client.loginData = await bounded(client.loginAsync({ username: client.user, ...credentials }), () => 'login')
    return client
  }

  /** A logged in client of version 7, of the binary protocol or of `options`. */
  async newer (options = {}) {
    const client = connectBinary(this.url, options)
    this.clients.push(client)
    this.onEnd(() => client.wire.close())
    client.user = this.name('newer')
    await bounded(client.login({ username: client.user }), () => 'login')
    return client
  }

  /** A record or list that is ready. */
  record (client, name, options) {
    return this.ready(client.record.getRecord(name, options))
  }

  /** Resolves when a client is logged in again after its connection was lost. */
  async again (client) {
    await client.wire.states.find((now) => now === 'RECONNECTING', 'RECONNECTING')
    await state(client, 'OPEN')
  }
}

/** A promise for what is given to a callback of the kind (error, value). */
export function answer (call) {
  const promise = new Promise((resolve, reject) => call((error, value) => error === null ? resolve(value) : reject(error)))
  return bounded(promise, () => 'a call of the callback')
}
