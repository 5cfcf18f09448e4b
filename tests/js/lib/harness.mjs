/** Cases, their time limits, and what a case may use: clients, raw connections, servers, waiting. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { connect } from './client.mjs'
import { RawClient } from './raw.mjs'
import { startServer, temporaryDirectory } from './server.mjs'
import { bounded, Calls, WAIT_LIMIT } from './wait.mjs'

/** How long a case may take as a whole (milliseconds). */
const CASE_LIMIT = 10000

/**
 * A list of cases that share one server. `config` is the server's configuration (camel case keys), `transports` how the
 * clients may talk (run.mjs --transport), `Case` the class of what the cases get.
 */
export class Suite {
  constructor (name, config = {}, { transports = ['binary', 'json'], Case = Context } = {}) {
    this.name = name
    this.config = config
    this.transports = transports
    this.Case = Case
    this.cases = []
  }

  /**
   * Adds a case. `options.oracle`: why the reference server cannot pass it (a fault that the spec tells to avoid);
   * `options.json`: why it cannot be passed in the client's JSON mode; `options.limit`: milliseconds for a case that
   * needs longer than others.
   */
  case (name, body, options = {}) {
    assert(!this.cases.some((other) => other.name === name), `case "${name}" exists twice`)
    const { oracle, json, limit = CASE_LIMIT } = options
    this.cases.push({ name, body, oracle, json, limit, Case: this.Case })
  }
}

/** What a case gets as its argument. */
export class Context {
  constructor (url) {
    this.url = url
    this.cleanups = []
    this.clients = []
  }

  /** A name that no other case uses. */
  name (base) {
    return `${base}/${randomUUID().slice(0, 8)}`
  }

  calls (what) {
    return new Calls(what)
  }

  /** Runs `cleanup` when the case has ended, newest first. */
  onEnd (cleanup) {
    this.cleanups.push(cleanup)
  }

  /** A client whose websocket is being opened and that is not logged in. `options` are client options. */
  client (options = {}, url = this.url) {
    const client = connect(url, options)
    this.clients.push(client)
    this.onEnd(() => client.wire.close())
    return client
  }

  /** A logged in client of a user of its own; `credentials` are added to the login data. */
  async login (credentials = {}, options = {}, url = this.url) {
    const client = this.client(options, url)
    client.user = credentials.username ?? this.name('user')
    await bounded(client.login({ username: client.user, ...credentials }), () => 'login')
    return client
  }

  /** `count` logged in clients. */
  logins (count, options = {}) {
    return Promise.all(Array.from({ length: count }, () => this.login({}, options)))
  }

  /** A websocket that speaks the protocol by hand, after the challenge. */
  async raw () {
    const raw = new RawClient(this.url)
    this.onEnd(() => raw.close())
    await raw.challenge()
    return raw
  }

  /** A raw client that has logged in. */
  async rawLogin (credentials = {}) {
    const raw = await this.raw()
    raw.user = credentials.username ?? this.name('raw')
    await raw.login({ username: raw.user, ...credentials })
    return raw
  }

  /** The record or list itself, once it is ready. */
  ready (record) {
    return bounded(record.whenReady(), () => `${record.name} ready`)
  }

  /** A server of the case's own; see startServer. */
  async server (options) {
    const server = await startServer({ ...options, temporary: temporaryDirectory(this) })
    this.onEnd(() => server.kill())
    return server
  }

  /** Waits for a condition that has no event of its own. */
  async until (condition, what) {
    const end = Date.now() + WAIT_LIMIT
    for (;;) {
      const value = await condition()
      if (value) return value
      if (Date.now() > end) throw new Error(`not true after ${WAIT_LIMIT} ms: ${what}`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  /** Runs every cleanup; fails with the first failure. */
  async end () {
    const failures = []
    for (const cleanup of this.cleanups.reverse()) {
      try {
        await cleanup()
      } catch (failure) {
        failures.push(failure)
      }
    }
    if (failures.length > 0) throw failures[0]
  }

  /** Fails if a client reported an error that the case did not expect. */
  check () {
    for (const client of this.clients) {
      assert.deepEqual(client.wire.errors.list.map(([, event, topic]) => `${topic} ${event}`), [], 'unexpected client errors')
    }
  }
}

/** Runs one case; the result has name, ok, ms and, after a failure, error. */
export async function runCase (entry, url) {
  const context = new entry.Case(url)
  const started = Date.now()
  const warnings = []
  const warn = console.warn
  console.warn = (...args) => warnings.push(args.join(' '))
  let error
  let fail
  const failed = new Promise((resolve, reject) => { fail = reject })
  // The client throws out of its socket's events, for instance at data that are no JSON.
  process.on('uncaughtException', fail)
  try {
    await bounded(Promise.race([entry.body(context), failed]), () => 'end of the case', entry.limit)
    context.check()
    assert.deepEqual(warnings.filter((line) => line.includes('TIMEOUT')), [], 'the client warned of a missing answer')
  } catch (failure) {
    error = failure instanceof Error ? failure.stack : `rejected with ${JSON.stringify(failure)}`
  }
  try {
    await context.end()
  } catch (failure) {
    error ??= `while cleaning up: ${failure.stack}`
  }
  console.warn = warn
  process.off('uncaughtException', fail)
  return { name: entry.name, ok: error === undefined, ms: Date.now() - started, error }
}
