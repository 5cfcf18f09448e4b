/** Waiting for something that must happen, with a time limit that says what was missing. */

/** How long one wait may take (milliseconds). */
export const WAIT_LIMIT = 4000

/** Values that arrive one after another; `find` waits for one of them. */
export class Inbox {
  constructor (what) {
    this.what = what
    this.list = []
    this.waiting = []
  }

  push (...values) {
    this.list.push(...values)
    this.waiting = this.waiting.filter((check) => !check())
  }

  /** The first value from index `from` on, past or future, for which the predicate holds. */
  find (predicate, what = 'a matching one', { from = 0, limit = WAIT_LIMIT } = {}) {
    return this.#when(() => this.list.findIndex((value, index) => index >= from && predicate(value)), what, limit)
      .then((index) => this.list[index])
  }

  /** As `find`, but takes the value out. */
  take (predicate, what = 'a matching one') {
    return this.#when(() => this.list.findIndex(predicate), what, WAIT_LIMIT, (index) => this.list.splice(index, 1)[0])
  }

  #when (find, what, limit, use = (index) => index) {
    const promise = new Promise((resolve) => {
      const check = () => {
        const index = find()
        if (index >= 0) resolve(use(index))
        return index >= 0
      }
      if (!check()) this.waiting.push(check)
    })
    return bounded(promise, () => `${what} of ${this.what}; the newest: ${JSON.stringify(this.list.slice(-5))?.slice(0, 1500)}`, limit)
  }
}

/** Rejects with a readable message if `promise` takes longer than `limit` ms. */
export function bounded (promise, what, limit = WAIT_LIMIT) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing after ${limit} ms: ${what()}`)), limit)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Calls received by a callback: pass `calls.fn` as the callback, then wait for the expected calls. */
export class Calls {
  constructor (what) {
    this.inbox = new Inbox(`calls of ${what}`)
    this.fn = (...args) => this.inbox.push(args)
  }

  /** The arguments of all calls so far. */
  get list () {
    return this.inbox.list
  }

  /** First arguments of all calls so far. */
  get firsts () {
    return this.list.map(([first]) => first)
  }

  /** The arguments of the first call for which `predicate(...args)` holds, past or future. */
  find (predicate, what) {
    return this.inbox.find((args) => predicate(...args), what)
  }

  /** The arguments of call number `count` (1 = first). */
  nth (count) {
    return this.inbox.find(() => true, `number ${count}`, { from: count - 1 })
  }
}

/** The reason a promise is rejected with. */
export async function rejection (promise, what = 'the promise') {
  let value
  try {
    value = await bounded(promise, () => `a rejection of ${what}`)
  } catch (reason) {
    if (reason instanceof Error && reason.message.startsWith('nothing after')) throw reason
    return reason
  }
  throw new Error(`${what} was not rejected but resolved with ${JSON.stringify(value)}`)
}
