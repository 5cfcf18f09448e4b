// Evaluates rules as deepstream.io does, by making functions of them: each line of the input is a case of
// tests/valve_expressions.py (the first one holds the records), each line of the output its value, or the type of what
// was thrown. It happens in a world of its own without what dsfast hides from rules on purpose: no globals, and
// nothing to inherit but the methods of the rule language and what JavaScript itself needs for conversions.
import { createInterface } from 'node:readline'
import { types } from 'node:util'
import vm from 'node:vm'

const world = vm.createContext(Object.create(null))
const { parse, compile, crossReference } = vm.runInContext(`
  Object.setPrototypeOf(globalThis, null)
  const kept = {
    Object: ['toString', 'valueOf'],
    Function: ['toString'],
    String: ['toString', 'valueOf', 'length', 'startsWith', 'endsWith', 'includes', 'indexOf', 'match', 'toUpperCase',
      'toLowerCase', 'trim'],
    Array: ['toString', 'join', 'length', 'includes', 'indexOf'],
    Number: ['toString', 'valueOf'],
    Boolean: ['toString', 'valueOf'],
    RegExp: ['toString', 'exec', 'source', 'flags', 'hasIndices', 'global', 'ignoreCase', 'multiline', 'dotAll', 'unicode',
      'unicodeSets', 'sticky'],
  }
  const { ownKeys, deleteProperty, getOwnPropertyDescriptor, apply } = Reflect
  const { bind } = Function.prototype
  const hidden = (method) => (delete method.length, delete method.name, method)
  const made = {
    parse: JSON.parse,
    compile: Function,
    crossReference: (records) => hidden(apply(bind, (name) => {
      if (name !== undefined && typeof name !== 'string') throw { name: 'crossreference' }
      if (name === undefined || name.includes('undefined')) return undefined
      return name in records ? records[name] : null
    }, [null])),
  }
  for (const type of ownKeys(kept)) {
    const { prototype } = globalThis[type]
    for (const key of ownKeys(prototype)) {
      const { value } = getOwnPropertyDescriptor(prototype, key)
      if (typeof key === 'string' && !kept[type].includes(key)) deleteProperty(prototype, key)
      else if (typeof value === 'function' && key !== 'constructor') hidden(value)
    }
  }
  const everything = globalThis
  for (const name of ownKeys(everything)) deleteProperty(everything, name)
  made
`, world)

function written(value) {
  if (value === undefined) return { undefined: true }
  if (typeof value === 'number') return { number: Object.is(value, -0) ? '-0' : String(value) }
  if (typeof value === 'function' || types.isRegExp(value)) {
    return { [typeof value === 'function' ? 'function' : 'regexp']: String(value) }
  }
  if (Array.isArray(value)) {
    const result = { array: Array.from(value, written) }
    if (Object.hasOwn(value, 'index')) {
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

function evaluate(test, reference) {
  const names = Object.keys(test.variables).map((name) => `$${name}`)
  const json = (text) => (text === null ? undefined : parse(text))
  try {
    const rule = compile('_', 'user', 'data', 'oldData', 'now', 'action', 'name', ...names, `return (\n${test.rule}\n)`)
    const user = parse(JSON.stringify({ isAuthenticated: test.user_id !== 'open', id: test.user_id }))
    user.data = json(test.user_data) ?? null
    return written(rule(reference, user, json(test.data), json(test.old_data), test.now, test.action,
      test.name ?? undefined, ...Object.values(test.variables)))
  } catch (error) {
    return { error: error.name, message: error.message }
  }
}

let reference
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  if (reference === undefined) reference = crossReference(parse(line))
  else process.stdout.write(JSON.stringify(evaluate(JSON.parse(line), reference)) + '\n')
}
