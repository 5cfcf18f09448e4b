// What a decision by upstream's rules costs, in nanoseconds: node bench/valve_upstream.cjs DIRECTORY < ROWS
//
// DIRECTORY holds node_modules/@deepstream/server. ROWS is the JSON of bench/valve.py; the answer is a JSON object from
// the key of each row to { rule, decision }: the compiled function alone, with its arguments ready, and the whole way
// through upstream's ConfigPermission (rule from its cache, RuleApplication with its callback).
const { readFileSync } = require('node:fs')
const { join, resolve } = require('node:path')

const server = resolve(process.argv[2], 'node_modules/@deepstream/server/dist/src')
const { ConfigPermission } = require(join(server, 'services/permission/valve/config-permission.js'))
const { LocalCache } = require(join(server, 'services/cache/local-cache.js'))
const { parse } = require(join(server, 'services/permission/valve/rule-parser.js'))
const { TOPIC, EVENT_ACTION } = require(join(server, 'constants.js'))

const { rows, inputs, seconds } = JSON.parse(readFileSync(0, 'utf8'))
const silent = { getNameSpace: () => silent, warn() {}, error() {}, fatal(event, text) { throw new Error(text) } }
const config = { record: { storageExclusionPrefixes: [], storageRetrievalTimeout: 1000, cacheRetrievalTimeout: 1000 } }
const text = JSON.stringify(inputs.data)
const socket = {
  userId: inputs.userId,
  serverData: inputs.userData,
  parseData(message) {
    message.parsedData = JSON.parse(message.data)
    return true
  },
}

function permission({ rule, others = 0 }, cache) {
  const everything = { '*': {} }
  const event = { '*': {}, [inputs.path]: { publish: rule } }
  for (let i = 0; i < others; i++) event[`room/${i}/$userId`] = { publish: `user.id === $userId && data.room === ${i}` }
  const options = {
    maxRuleIterations: 3,
    cacheEvacuationInterval: 60000,
    permissions: { record: everything, rpc: everything, presence: everything, event },
  }
  const service = new ConfigPermission(options, { logger: silent, cache }, config)
  service.setRecordHandler({ removeRecordRequest() {}, runWhenRecordStable: (name, load) => load(name) })
  return service
}

// Nanoseconds per call of `batch(count)`, which may return a promise: the median of many batches, so that what else the
// machine does counts little. The first half of the time is for the compiler.
async function measured(batch) {
  const count = 1000
  const times = []
  const begin = process.hrtime.bigint()
  for (let total = 0; total < seconds * 1e9;) {
    const start = process.hrtime.bigint()
    await batch(count)
    const end = process.hrtime.bigint()
    times.push(Number(end - start) / count)
    total = Number(end - begin)
  }
  const late = times.slice(times.length >> 1).sort((a, b) => a - b)
  return late[late.length >> 1]
}

function ruleAlone(rule) {
  if (rule.includes('_(')) return null
  const { fn } = parse(rule, ['$userId'])
  const user = { id: inputs.userId, isAuthenticated: true, data: inputs.userData }
  const values = [null, user, inputs.data, undefined, Date.now(), EVENT_ACTION.EMIT, inputs.name, inputs.userId]
  let allowed = 0
  return measured((count) => {
    for (let i = 0; i < count; i++) if (fn.apply({}, values)) allowed++
  })
}

async function decision(row, cache) {
  const service = permission(row, cache)
  const message = { topic: TOPIC.EVENT, action: EVENT_ACTION.EMIT, name: inputs.name, data: text }
  let names = 0
  const check = (callback) => {
    message.parsedData = undefined
    if (row.unseen) message.name = `user/${names++}`
    service.canPerformAction(socket, message, callback, null)
  }
  const time = await measured((count) => new Promise((resolve, reject) => {
    let left = count
    const done = (_socket, _message, _passItOn, error, allowed) => {
      if (error || allowed !== true) reject(new Error(`${row.key}: ${error} ${allowed}`))
      else if (--left === 0) resolve()
      else if (row.waits) check(done)
    }
    if (row.waits) check(done)
    else for (let i = 0; i < count; i++) check(done)
  }))
  await service.close()
  return time
}

async function main() {
  const cache = new LocalCache()
  await new Promise((resolve) => cache.set(inputs.recordName, 1, inputs.record, resolve))
  const times = {}
  for (const row of rows) {
    const rule = row.others || row.unseen ? null : await ruleAlone(row.rule)
    times[row.key] = { rule, decision: await decision(row, cache) }
  }
  process.stdout.write(JSON.stringify(times) + '\n')
}

main()
