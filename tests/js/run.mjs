/**
 * Runs client cases against a server and prints one JSON line per case: {suite, name, ok, ms, error}.
 *
 *   node run.mjs --list                          one JSON line per suite: its cases with what they need
 *   node run.mjs URL [SUITE ...] [--case NAME ...] [--transport binary|json]
 */
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { transport } from './lib/client.mjs'
import { runCase } from './lib/harness.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    list: { type: 'boolean' },
    case: { type: 'string', multiple: true },
    transport: { type: 'string', default: 'binary' }
  }
})
transport.name = values.transport
const [url, ...wanted] = positionals
const directory = join(dirname(fileURLToPath(import.meta.url)), 'suites')
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

let failed = 0
for (const file of readdirSync(directory).filter((name) => name.endsWith('.mjs')).sort()) {
  const { suite } = await import(pathToFileURL(join(directory, file)))
  if (values.list) {
    const cases = suite.cases.map(({ name, oracle, json }) => ({ name, oracle, json }))
    print({ suite: suite.name, config: suite.config, transports: suite.transports, cases })
    continue
  }
  if (wanted.length > 0 && !wanted.includes(suite.name)) continue
  for (const entry of suite.cases) {
    if (values.case && !values.case.includes(entry.name)) continue
    if (process.env.DSFAST_ORACLE === '1' && entry.oracle) continue
    const result = await runCase(entry, url)
    if (!result.ok) failed += 1
    print({ suite: suite.name, ...result })
  }
}
// A client that a failed case left behind must not keep the process alive.
process.exit(failed === 0 ? 0 : 1)
