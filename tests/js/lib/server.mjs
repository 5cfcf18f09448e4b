/** Server processes for cases that need one of their own. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bounded } from './wait.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..', '..')
const onOracle = process.env.DSFAST_ORACLE === '1'

export function freePort () {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
}

/** A directory that `context` removes at its end. */
export function temporaryDirectory (context) {
  const directory = mkdtempSync(join(tmpdir(), 'dsfast-js-'))
  context.onEnd(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

function command ({ port, dataDir, config }) {
  if (onOracle) {
    const args = [join(here, '..', 'oracle', 'server.mjs'), '--port', String(port)]
    if (dataDir) args.push('--data-dir', dataDir)
    if (config) args.push('--config', JSON.stringify(config))
    return [process.execPath, args]
  }
  const python = process.env.DSFAST_PYTHON
  if (!python) throw new Error('DSFAST_PYTHON must name the Python executable that runs the server')
  if (dataDir) {
    return [python, ['-m', 'dsfast', 'serve', '--host', '127.0.0.1', '--port', String(port), '--data-dir', dataDir]]
  }
  return [python, [join(root, 'tests', 'js_server.py'), '--port', String(port), '--config', JSON.stringify(config ?? {})]]
}

async function healthy (port) {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/health-check`)
    await answer.arrayBuffer()
    return answer.ok
  } catch {
    return false
  }
}

/**
 * Starts a server and waits until it answers its health check. With `dataDir`: `dsfast serve` with open logins and records
 * kept in that directory; else the test server with `config`. `temporary` is a directory for its temporary files. Returns
 * {url, port, stop(), kill()}.
 */
export async function startServer ({ port, dataDir, config, temporary }) {
  port ??= await freePort()
  const [program, args] = command({ port, dataDir, config })
  const child = spawn(program, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: temporary, PYTHONPATH: [root, process.env.PYTHONPATH].filter(Boolean).join(':') }
  })
  let output = ''
  child.stdout.on('data', (data) => { output += data })
  child.stderr.on('data', (data) => { output += data })
  let ended = false
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => {
    ended = true
    resolve(code ?? signal)
  }))
  const end = async (signal) => {
    if (!ended) child.kill(signal)
    return bounded(exited, () => `end of the server after ${signal}: ${output}`, 15000)
  }
  const deadline = Date.now() + 15000
  while (!await healthy(port)) {
    if (ended || Date.now() > deadline) {
      await end('SIGKILL')
      throw new Error(`the server did not start: ${output}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return {
    port,
    url: `ws://127.0.0.1:${port}`,
    /** SIGTERM; resolves with the exit code. */
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL')
  }
}
