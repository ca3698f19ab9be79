/**
 * HTTP client for what `fetch` of Node cannot do: proxies of the environment, a file of certificates, and Unix sockets.
 *
 * `settings.ts` uses it only if a setting needs it. It has the form of `fetch`, as far as the RPC library uses it: one
 * request body, one response body, no redirects. Node's modules are loaded at run time, so that bundlers for browsers
 * find nothing of Node in this package.
 */

import { ConfigError } from './errors.js'

/** The largest response that is read, in bytes. It exceeds the largest page of a list. */
const MAX_RESPONSE = 64 * 2 ** 20
/** The shortest duration of a request whose abort closes the idle connections, in milliseconds. */
const SUSPECT_MS = 1_000
/** The time limit for a proxy to open a tunnel, in milliseconds. */
const TUNNEL_MS = 10_000

/** How a request reaches the server. */
export interface Route {
  /** The path of a Unix socket. */
  readonly socketPath?: string | undefined
  /** The path of a PEM file of certificates to trust instead of the system's. */
  readonly caFile?: string | undefined
  readonly proxy?: URL | undefined
}

/** The parts of Node's modules that are used. The types of Node are not those of every program that has this package. */
interface Socket {
  destroy(): void
}
interface Incoming extends AsyncIterable<Uint8Array> {
  readonly statusCode: number
  readonly rawHeaders: readonly string[]
}
interface Outgoing {
  once(event: 'response', then: (response: Incoming) => void): this
  once(event: 'connect', then: (response: Incoming, socket: Socket) => void): this
  once(event: 'error', then: (error: Error) => void): this
  setTimeout(ms: number, then: () => void): this
  destroy(error?: Error): this
  end(body?: Uint8Array): this
}
interface Agent {
  readonly freeSockets: Record<string, readonly Socket[] | undefined>
  createConnection(options: object, then: (error: Error | null, socket?: Socket) => void): Socket | undefined
}
interface Http {
  request(options: object): Outgoing
  readonly Agent: new (options: object) => Agent
}
interface Modules {
  'node:http': Http
  'node:https': Http
  'node:tls': { connect(options: object): Socket }
  'node:net': {
    isIP(text: string): 0 | 4 | 6
    readonly BlockList: new () => {
      addSubnet(net: string, prefix: number, family: string): void
      check(address: string, family: string): boolean
    }
  }
  'node:fs': { readFileSync(path: string, encoding: 'utf8'): string }
  'node:crypto': { readonly X509Certificate: new (pem: string) => unknown }
}

/** A module of Node. Undefined in a browser, and in a Node before 20.16. */
export function builtin<Name extends keyof Modules>(name: Name): Modules[Name] | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } }
  return process?.getBuiltinModule?.(name) as Modules[Name] | undefined
}

/** Makes the client of a route. Throws a {@link ConfigError} if the file of certificates cannot be used. */
export function nodeFetch(route: Route, baseUrl: string): typeof globalThis.fetch {
  const [http, https] = [builtin('node:http'), builtin('node:https')]
  if (http === undefined || https === undefined) {
    throw new ConfigError(
      route.caFile ? 'caFile' : route.proxy ? 'proxy' : 'baseUrl',
      'a file of certificates, a proxy and a unix: URL need Node 20.16 or later',
    )
  }
  const { socketPath, proxy } = route
  const ca = route.caFile === undefined ? undefined : certificates(route.caFile)
  const secure = baseUrl.startsWith('https:')
  // A request in clear text is sent to the proxy itself, with the whole URL in its head.
  const forwarded = proxy !== undefined && !secure
  const module = (forwarded ? proxy.protocol === 'https:' : secure) ? https : http
  const agent = new module.Agent({ keepAlive: true, maxFreeSockets: 100, ...(ca && !forwarded && { ca }) })
  if (proxy !== undefined && secure) agent.createConnection = tunnel(proxy)

  return async (input, init = {}) => {
    const url = new URL(String(input))
    const headers = Object.fromEntries(new Headers(init.headers))
    const server = { hostname: bare(url.hostname), port: url.port || (secure ? 443 : 80), path: url.pathname + url.search }
    const options = {
      ...(forwarded ? { ...target(proxy), path: url.href } : socketPath ? { ...server, socketPath } : server),
      method: init.method ?? 'GET',
      headers: { ...headers, host: url.host, ...(forwarded && authorizationOf(proxy)) },
      agent,
      ...(init.signal && { signal: init.signal }),
    }
    const start = performance.now()
    try {
      const response = await sent(module.request(options), init.body as Uint8Array | undefined)
      if (response.statusCode >= 300 && response.statusCode < 400) {
        response[Symbol.asyncIterator]().return?.()
        throw new TypeError('the server redirects to another URL, which is not followed')
      }
      return new Response(await content(response), { status: response.statusCode, headers: headersOf(response) })
    } catch (error) {
      // The call timed out: the idle connections may use the same broken path.
      if (init.signal?.aborted && performance.now() - start >= SUSPECT_MS) {
        for (const sockets of Object.values(agent.freeSockets)) for (const socket of [...(sockets ?? [])]) socket.destroy()
      }
      throw error
    }
  }
}

function sent(request: Outgoing, body: Uint8Array | undefined): Promise<Incoming> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve).once('error', reject).end(body)
  })
}

async function content(response: Incoming): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response) {
    length += chunk.length
    if (length > MAX_RESPONSE) throw new TypeError('the response is too large')
    chunks.push(chunk)
  }
  const bytes = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    bytes.set(chunk, at)
    at += chunk.length
  }
  return bytes
}

function headersOf({ rawHeaders }: Incoming): Headers {
  const headers = new Headers()
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) headers.append(rawHeaders[i]!, rawHeaders[i + 1]!)
  return headers
}

/** Opens connections through a proxy: CONNECT, then TLS with the server. */
function tunnel(proxy: URL): Agent['createConnection'] {
  const module = builtin(proxy.protocol === 'https:' ? 'node:https' : 'node:http')!
  const tls = builtin('node:tls')!
  return (options, then) => {
    const { host, port } = options as { host: string; port: number }
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`
    const headers = { host: authority, ...authorizationOf(proxy) }
    const request = module.request({ ...target(proxy), method: 'CONNECT', path: authority, headers, agent: false })
    request.setTimeout(TUNNEL_MS, () => request.destroy(new Error('the proxy did not open a tunnel in time')))
    request.once('connect', (response, socket) => {
      if (response.statusCode !== 200) {
        socket.destroy()
        return then(new Error(`the proxy refused to open a tunnel: ${response.statusCode}`))
      }
      then(null, tls.connect({ ...options, path: undefined, socket }))
    })
    // The proxy responded to CONNECT as to any other request.
    request.once('response', (response) => {
      request.destroy()
      then(new Error(`the proxy refused to open a tunnel: ${response.statusCode}`))
    })
    request.once('error', (error) => then(error))
    request.end()
    return undefined
  }
}

function target(proxy: URL): object {
  return { hostname: bare(proxy.hostname), port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80) }
}

function authorizationOf(proxy: URL): object {
  if (proxy.username === '' && proxy.password === '') return {}
  const text = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
  return { 'proxy-authorization': `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(text)))}` }
}

/** An address of IPv6 without its brackets. */
function bare(hostname: string): string {
  return hostname.replace(/^\[(.*)\]$/, '$1')
}

function certificates(path: string): string {
  let text: string
  try {
    text = builtin('node:fs')!.readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError('caFile', `the CA file cannot be read: ${(error as Error).message}`)
  }
  const found = text.match(/-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs) ?? []
  try {
    for (const certificate of found) new (builtin('node:crypto')!.X509Certificate)(certificate)
  } catch {
    throw new ConfigError('caFile', `the CA file has a malformed certificate: ${path}`)
  }
  if (found.length === 0) throw new ConfigError('caFile', `the CA file has no certificates in PEM: ${path}`)
  return text
}
