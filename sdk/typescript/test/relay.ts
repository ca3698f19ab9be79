/** A server with TLS, a relay that breaks connections, and a proxy, for the tests of the network. */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttp, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttps } from 'node:https'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

/** A temporary folder. */
export function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'agentrouter-sdk-'))
  t.after(() => rmSync(path, { recursive: true }))
  return path
}

/** The port of a server that listens on this host from now on, until the end of the test. */
export async function listen(t: TestContext, server: Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return (server.address() as AddressInfo).port
}

const succeed = (request: IncomingMessage, response: ServerResponse) => {
  request.resume()
  request.on('end', () => {
    response.writeHead(200, { 'content-type': 'application/proto' })
    response.end()
  })
}

/** A server with TLS for 127.0.0.1 and secrets.example.com, which responds with an empty message. */
export async function secure(t: TestContext): Promise<{ port: number; caFile: string }> {
  const path = folder(t)
  const file = (name: string) => join(path, name)
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-batch', '-days', '2']
  const names = 'subjectAltName=IP:127.0.0.1,DNS:secrets.example.com'
  const arguments_ = ['req', '-x509', ...key, '-subj', '/CN=test', '-addext', names, '-keyout', file('key'), '-out', file('pem')]
  execFileSync('openssl', arguments_, { stdio: 'ignore' })
  const server = createHttps({ key: readFileSync(file('key')), cert: readFileSync(file('pem')) }, succeed)
  return { port: await listen(t, server), caFile: file('pem') }
}

/** A server in clear text. */
export async function plain(t: TestContext): Promise<number> {
  return listen(t, createHttp(succeed))
}

/** A server on a Unix socket, and the requests that it received. */
export async function onSocket(t: TestContext): Promise<{ path: string; requests: IncomingMessage[] }> {
  const path = join(folder(t), 's.sock')
  const requests: IncomingMessage[] = []
  const server = createHttp((request, response) => {
    requests.push(request)
    succeed(request, response)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { path, requests }
}

/**
 * Forwards connections to a port. After `silence`, the connections of that time forward nothing and stay open, as those of a
 * load balancer that dropped them. Later connections work.
 */
export async function relay(t: TestContext, target: number) {
  const state = { port: 0, opened: 0, silence: () => {} }
  let lost = { now: false }
  const server = createServer((near) => {
    state.opened++
    const mine = lost
    const far = connect(target, '127.0.0.1')
    t.after(() => far.destroy())
    const forward = (from: Socket, to: Socket) => {
      from.on('error', () => {})
      from.on('data', (bytes) => mine.now || to.write(bytes))
      from.on('close', () => mine.now || to.destroy())
    }
    forward(near, far)
    forward(far, near)
  })
  state.port = await listen(t, server)
  state.silence = () => {
    lost.now = true
    lost = { now: false }
  }
  return state
}

/** A proxy that forwards every tunnel to one port, and the requests that it received. */
export async function proxy(t: TestContext, target: number) {
  const seen: string[] = []
  const note = (request: IncomingMessage) =>
    seen.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`.trim())
  const server = createHttp((request, response) => {
    note(request)
    succeed(request, response)
  })
  server.on('connect', (request, near: Socket) => {
    note(request)
    if (request.url?.startsWith('refused.')) return near.end('HTTP/1.1 403 Forbidden\r\n\r\n')
    const far = connect(target, '127.0.0.1', () => {
      near.write('HTTP/1.1 200 OK\r\n\r\n')
      far.pipe(near).pipe(far)
    })
    far.on('error', () => near.destroy())
    near.on('error', () => far.destroy())
    near.on('close', () => far.destroy())
  })
  return { url: `http://127.0.0.1:${await listen(t, server)}`, seen }
}

/** Writes a file into a temporary folder. */
export function fileWith(t: TestContext, content: string): string {
  const path = join(folder(t), 'file')
  writeFileSync(path, content)
  return path
}
