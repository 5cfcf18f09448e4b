/** A websocket that speaks the binary protocol by hand, for what the client hides: acknowledgements, error fields, bad input. */
import { createRequire } from 'node:module'
import { AUTH_ACTION, CONNECTION_ACTION, TOPIC } from './client.mjs'
import { bounded, Inbox } from './wait.mjs'

const require = createRequire(import.meta.url)
const WebSocket = require('ws')
const { parse } = require('@deepstream/protobuf/dist/src/message-parser')
const { getMessage } = require('@deepstream/protobuf/dist/src/message-builder')

export const encode = (message) => getMessage(message, false)

/** The message as a plain object of the fields that were on the wire (the parser adds empty lists and maps). */
function present (message) {
  return Object.fromEntries(Object.entries(message).filter(([key, value]) =>
    !(key === 'names' && value.length === 0) && !(key === 'versions' && Object.keys(value).length === 0)))
}

export class RawClient {
  messages = new Inbox('received messages')
  frames = new Inbox('received frames')

  constructor (url) {
    this.socket = new WebSocket(url + '/deepstream')
    this.opened = new Promise((resolve, reject) => {
      this.socket.once('open', resolve)
      this.socket.once('error', reject)
    })
    this.socket.on('error', () => {})
    this.ended = new Promise((resolve) => this.socket.once('close', resolve))
    this.socket.on('message', (frame) => {
      this.frames.push(frame.toString('hex'))
      this.messages.push(...parse(frame).map(present))
    })
  }

  send (message) {
    this.socket.send(encode(message))
  }

  sendBytes (bytes) {
    this.socket.send(bytes)
  }

  /** Takes the first message of that topic and action, with these fields, out of the inbox, waiting for it if needed. */
  message (topic, action, fields = {}) {
    const matches = (message) => message.topic === topic && message.action === action &&
      Object.entries(fields).every(([key, value]) => message[key] === value)
    return this.messages.take(matches, `message ${topic}.${action} ${JSON.stringify(fields)}`)
  }

  /** Waits for a frame with exactly these bytes (hexadecimal). */
  frame (hex) {
    return this.frames.find((frame) => frame === hex, hex)
  }

  /** The close code, when the server closes. */
  closed () {
    return bounded(this.ended, () => 'close by the server')
  }

  /** Resolves when the server has answered a ping: what it had sent before is in the inbox. */
  async ping () {
    this.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.PING })
    await this.message(TOPIC.CONNECTION, CONNECTION_ACTION.PONG)
  }

  async challenge () {
    await bounded(this.opened, () => 'open websocket')
    this.send({ topic: TOPIC.CONNECTION, action: CONNECTION_ACTION.CHALLENGE, url: this.socket.url, protocolVersion: '0.1a' })
    await this.message(TOPIC.CONNECTION, CONNECTION_ACTION.ACCEPT)
  }

  /** Logs in; resolves with the server's answer. */
  login (data) {
    this.send({ topic: TOPIC.AUTH, action: AUTH_ACTION.REQUEST, data: JSON.stringify(data) })
    return this.message(TOPIC.AUTH, AUTH_ACTION.AUTH_SUCCESSFUL)
  }

  async close () {
    if (this.socket.readyState === WebSocket.CLOSED) return
    this.socket.terminate()
    await this.ended
  }
}
