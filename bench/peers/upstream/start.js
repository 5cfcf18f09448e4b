// Starts the upstream server with its Node websocket service ("ws" mode): open login, open
// permission, no logging, no other endpoint. Prints "ready" when the port is open.
'use strict'

const { Deepstream } = require('@deepstream/server')

const port = Number(process.argv[2])
const OFF = 100

const server = new Deepstream({
  showLogo: false,
  logLevel: OFF,
  logger: { type: 'default', options: { logLevel: OFF } },
  auth: [{ type: 'none', options: {} }],
  permission: { type: 'none', options: {} },
  httpServer: { type: 'default', options: { host: '127.0.0.1', port, healthCheckPath: '/health-check' } },
  connectionEndpoints: [{ type: 'ws-binary', options: { urlPath: '/deepstream' } }]
})
server.set('logLevel', OFF)
server.on('started', () => console.log('ready'))
process.on('SIGTERM', () => process.exit(0))
server.start()
