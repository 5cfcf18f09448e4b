// Evaluates rules as deepstream.io does: each line of the input is a case of tests/valve_expressions.py (the first
// one names the records), each line of the output its value, or the type of what was thrown.
import { createInterface } from 'node:readline'

// dsfast shows no members of functions.
for (const method of [
  Function.prototype, ...['startsWith', 'endsWith', 'includes', 'indexOf', 'match', 'toUpperCase', 'toLowerCase', 'trim']
    .flatMap((name) => [String.prototype[name], Array.prototype[name] ?? (() => {})]),
]) {
  delete method.length
  delete method.name
}

function written(value) {
  if (value === undefined) return { undefined: true }
  if (typeof value === 'number') return { number: Object.is(value, -0) ? '-0' : String(value) }
  if (typeof value === 'function') return { function: String(value) }
  if (value instanceof RegExp) return { regexp: String(value) }
  if (Array.isArray(value)) {
    const result = { array: Array.from(value, written) }
    if ('index' in value) {
      result.index = value.index
      result.input = value.input
      result.groups = written(value.groups && { ...value.groups })
    }
    return result
  }
  if (value !== null && typeof value === 'object') {
    return { object: Object.keys(value).map((key) => [key, written(value[key])]).sort((a, b) => (a[0] < b[0] ? -1 : 1)) }
  }
  return { value }
}

function evaluate(test, records) {
  const names = Object.keys(test.variables)
  const json = (text) => (text === null ? undefined : JSON.parse(text))
  const reference = (name) => {
    if (name !== undefined && typeof name !== 'string') throw Object.assign(new Error(), { name: 'crossreference' })
    if (name === undefined || name.includes('undefined')) return undefined
    return Object.hasOwn(records, name) ? records[name] : null
  }
  const bound = reference.bind(null)
  delete bound.length
  delete bound.name
  let rule
  try {
    rule = new Function('_', 'user', 'data', 'oldData', 'now', 'action', 'name', ...names.map((name) => '$' + name),
      `return (\n${test.rule}\n)`)
  } catch (error) {
    return { error: error.name, message: error.message }
  }
  const user = { isAuthenticated: test.user_id !== 'open', id: test.user_id, data: json(test.user_data) ?? null }
  try {
    return written(rule(bound, user, json(test.data), json(test.old_data), test.now, test.action,
      test.name ?? undefined, ...Object.values(test.variables)))
  } catch (error) {
    return { error: error.name, message: error.message }
  }
}

let records
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  if (records === undefined) records = JSON.parse(line)
  else process.stdout.write(JSON.stringify(evaluate(JSON.parse(line), records)) + '\n')
}
