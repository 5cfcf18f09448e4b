// One of deepstream's own connectors as a command: node connector.cjs redis|postgres get|set PORT JSON
// set: [[name, version, data], ...]; get: [name, ...], answers the same form on standard output.
const [, , kind, operation, port, given] = process.argv
const logger = {
  getNameSpace: () => logger,
  info() {},
  debug() {},
  warn: console.error,
  error: console.error,
  fatal: console.error,
}
const services = { logger, notifyFatalException: () => process.exit(2) }

function connector() {
  if (kind === 'redis') {
    const { CacheConnector } = require('@deepstream/cache-redis')
    return new CacheConnector({ host: '127.0.0.1', port: Number(port) }, services, {})
  }
  const { Connector } = require('@deepstream/storage-postgres')
  const options = { host: '127.0.0.1', port: Number(port), user: 'postgres', database: 'postgres' }
  return new Connector({ ...options, schema: 'ds', writeInterval: 10 }, services, {})
}

// Their callbacks: the error first.
const called = (method, ...parameters) =>
  new Promise((resolve, reject) =>
    method(...parameters, (error, ...results) => (error ? reject(error) : resolve(results)))
  )

async function main() {
  const plugin = connector()
  if (plugin.init) await plugin.init()
  await plugin.whenReady()
  const answers = []
  for (const item of JSON.parse(given)) {
    if (operation === 'set') await called(plugin.set.bind(plugin), ...item)
    else answers.push([item, ...(await called(plugin.get.bind(plugin), item))])
  }
  process.stdout.write(JSON.stringify(answers), () => process.exit(0))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
