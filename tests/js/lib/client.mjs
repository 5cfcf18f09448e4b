/** The official client, unmodified, with a tap on its socket (its `socketFactory` option) that sees all messages. */
import { createRequire } from 'node:module'
import { bounded, Inbox } from './wait.mjs'

// Newer Node versions have a browser-like WebSocket that the client would prefer; without it all versions use `ws`.
delete globalThis.WebSocket

const require = createRequire(import.meta.url)
const { DeepstreamClient, C } = require('@deepstream/client')
const { socketFactory } = require('@deepstream/client/dist/src/connection/socket-factory')

export const { TOPIC, CONNECTION_ACTION, AUTH_ACTION, EVENT_ACTION, RECORD_ACTION, RPC_ACTION, PRESENCE_ACTION, PARSER_ACTION } = C
export const { REMOTE_WINS, LOCAL_WINS } = require('@deepstream/client/dist/src/record/merge-strategy')

/** How the clients of the cases talk: binary, or json (run.mjs --transport). */
export const transport = { name: 'binary' }
const TRANSPORTS = {
  binary: {},
  json: { path: '/deepstream-json', socketOptions: { jsonTransportMode: true } }
}

const CONNECTING = 0
const CLOSED = 3

/** The messages of one client, over all its reconnects. */
class Wire {
  received = new Inbox('received messages')
  sent = new Inbox('sent messages')
  /** Error events that no case has claimed: [value, event, topic]. */
  errors = new Inbox('error events')
  sockets = []
  held = null
  connectionErrorsAllowed = false

  factory () {
    return (url, options, heartbeatInterval) => {
      const socket = socketFactory(url, options, heartbeatInterval)
      this.sockets.push(socket)
      const send = socket.sendParsedMessage
      socket.sendParsedMessage = (message) => {
        const receivedBefore = this.received.list.length
        send(message)
        this.sent.push({ ...message, receivedBefore, returnedFor: new Set() })
      }
      let handler
      const deliver = (messages) => {
        handler(messages)
        this.received.push(...messages)
      }
      Object.defineProperty(socket, 'onparsedmessages', {
        get: () => (messages) => this.held ? this.held.push([deliver, messages]) : deliver(messages),
        set: (value) => { handler = value }
      })
      return socket
    }
  }

  get socket () {
    return this.sockets.at(-1)
  }

  /** From now on the client does not see what arrives, until `release`. */
  hold () {
    this.held = []
  }

  /** Gives the client what arrived meanwhile, in order. */
  release () {
    const held = this.held
    this.held = null
    for (const [deliver, messages] of held) deliver(messages)
  }

  /** A received message (past or future) of this topic and action; `from` skips older ones, `fields` must be equal. */
  message (topic, action, fields = {}, from = 0) {
    const matches = (message) => message.topic === topic && message.action === action &&
      Object.entries(fields).every(([key, value]) => message[key] === value)
    return this.received.find(matches, `message ${topic}.${action} ${JSON.stringify(fields)}`, { from })
  }

  /** How many messages have arrived. */
  get count () {
    return this.received.list.length
  }

  /** Messages of this topic and action that have arrived so far. */
  messages (topic, action) {
    return this.received.list.filter((message) => message.topic === topic && message.action === action)
  }

  /**
   * The first request of this topic and action that names `name` (in `names` or `name`) and that no earlier call of this
   * method has returned for that name; waits until it is sent.
   */
  async request (topic, action, name) {
    const concerns = (message) => message.topic === topic && message.action === action && !message.returnedFor.has(name) &&
      (name === undefined || message.name === name || (message.names ?? []).includes(name))
    const request = await this.sent.find(concerns, `request ${topic}.${action} ${name}`)
    request.returnedFor.add(name)
    return request
  }

  /** The acknowledgement of such a request: with it the server has carried it out. */
  async acked (topic, action, name) {
    const { correlationId, receivedBefore } = await this.request(topic, action, name)
    const fields = { isAck: true }
    if (correlationId !== undefined) fields.correlationId = correlationId
    else if (name !== undefined) fields.name = name
    return this.message(topic, action, fields, receivedBefore)
  }

  /** Resolves when the server has answered a ping, so everything it had sent to this client before has arrived. */
  async ping () {
    const from = this.count
    this.socket.sendParsedMessage({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
    await this.message(TOPIC.CONNECTION, CONNECTION_ACTION.PONG, {}, from)
  }

  /** Waits for an error event of the client and takes it out of the unexpected ones. */
  error (event) {
    return this.errors.take(([, name]) => name === event, event)
  }

  /** Connection errors are expected from now on: the case takes the server away. */
  allowConnectionErrors () {
    this.connectionErrorsAllowed = true
  }

  /** Breaks the connection as a network would; the client reconnects by itself. */
  drop () {
    this.socket.terminate()
  }

  /** Closes the client for good; resolves when the closing handshake is over. */
  async close () {
    this.client.options.maxReconnectAttempts = 0
    this.held = null
    const open = this.sockets.filter((socket) => socket.readyState < CLOSED)
    const closed = Promise.all(open.map((socket) => new Promise((resolve) => socket.once('close', resolve))))
    for (const socket of open) if (socket.readyState === CONNECTING) socket.terminate()
    if (!['CLOSED', 'CLOSING'].includes(this.client.getConnectionState())) this.client.close()
    for (const socket of open) socket.close()
    await bounded(closed, () => 'end of the closing handshake')
  }
}

/** A client with fast timers and reconnects. `client.wire` is the tap. Error events that a case does not claim fail it. */
export function connect (url, options = {}) {
  const wire = new Wire()
  const client = new DeepstreamClient(url, {
    nativeTimerRegistry: true,
    subscriptionInterval: 5,
    reconnectIntervalIncrement: 20,
    maxReconnectInterval: 100,
    maxReconnectAttempts: 1000,
    ...TRANSPORTS[transport.name],
    ...options,
    socketFactory: wire.factory()
  })
  wire.client = client
  client.wire = wire
  client.on('error', (...error) => {
    if (!(wire.connectionErrorsAllowed && error[2] === 'CONNECTION')) wire.errors.push(error)
  })
  return client
}

/** Resolves when the client's connection is in that state. */
export function state (client, wanted) {
  const promise = new Promise((resolve) => {
    if (client.getConnectionState() === wanted) {
      resolve()
      return
    }
    const changed = (now) => {
      if (now !== wanted) return
      client.off('connectionStateChanged', changed)
      resolve()
    }
    client.on('connectionStateChanged', changed)
  })
  return bounded(promise, () => `connection state ${wanted}, now ${client.getConnectionState()}`, 8000)
}
