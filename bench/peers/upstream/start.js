// Starts the upstream server with its Node websocket service ("ws" mode): open login, open
// permission or the rules of a JSON file (second argument, may be empty), TLS with a certificate and its key (third and
// fourth), no logging, endpoints for websockets and HTTP. Prints "ready" when the port is open.
'use strict'

const { readFileSync } = require('node:fs')
const { Deepstream } = require('@deepstream/server')

const port = Number(process.argv[2])
const http = {
  type: 'http',
  // They are not filled in.
  options: { enableAuthEndpoint: true, authPath: '/api/auth', postPath: '/api', getPath: '/api', allowAuthData: true }
}
const rules = process.argv[3] ? JSON.parse(readFileSync(process.argv[3], 'utf8')) : null
const [cert, key] = process.argv.slice(4, 6).map((file) => readFileSync(file, 'utf8'))
const OFF = 100

const server = new Deepstream({
  showLogo: false,
  logLevel: OFF,
  logger: { type: 'default', options: { logLevel: OFF } },
  auth: [{ type: 'none', options: {} }],
  permission: rules ? { type: 'config', options: { permissions: rules } } : { type: 'none', options: {} },
  httpServer: { type: 'default', options: { host: '127.0.0.1', port, healthCheckPath: '/health-check', ...(cert ? { ssl: { cert, key } } : {}) } },
  connectionEndpoints: [{ type: 'ws-binary', options: { urlPath: '/deepstream' } }, http]
})
server.set('logLevel', OFF)
server.on('started', () => console.log('ready'))
process.on('SIGTERM', () => process.exit(0))
server.start()
