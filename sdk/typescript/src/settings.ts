/**
 * Settings of a client, and their checks.
 *
 * No error contains the key or the user part of a URL. The form of a key is checked. The server checks its checksum.
 */

import type { Interceptor } from '@connectrpc/connect'
import { ConfigError, checkNames, type AgentRouterError } from './errors.js'
import { nodeFetch } from './node.js'
import { isThisHost, proxyFor } from './proxy.js'

/** One attempt of a call, for a log. It has nothing of the request. */
export interface Attempt {
  /** The name of the call, such as `GetSecret`. */
  readonly procedure: string
  /** 1 for the first attempt. */
  readonly attempt: number
  readonly durationMs: number
  /** Why it failed. Not set if it succeeded. */
  readonly error?: AgentRouterError | undefined
  /** The pause before the next attempt. Not set if there is none. */
  readonly pauseMs?: number | undefined
}

/** The settings of a {@link Client}. The first two are required, here or in the environment. */
export interface ClientOptions {
  /**
   * The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Or `unix:` and the path of
   * the server's Unix socket (Node). Default: the environment variable `AGENTROUTER_BASE_URL`.
   */
  baseUrl?: string | undefined
  /** The API key, with or without `ak-`. Default: the environment variable `AGENTROUTER_API_KEY`. */
  apiKey?: string | undefined
  /** The time limit of a call in milliseconds, with its retries and pauses. Default: 10 000. */
  timeoutMs?: number | undefined
  /** The number of retries of a read, or of a write with `expectedVersion`. Default: 2. 0 turns retries off. */
  retries?: number | undefined
  /**
   * A PEM file of certificates to trust instead of the system's (Node). Default: the environment variable
   * `AGENTROUTER_CA_FILE`. With `fetch`, or without an `https://` URL, it is a {@link ConfigError}.
   */
  caFile?: string | undefined
  /**
   * Whether an `http://` URL may name another host. The key and all values then cross the network in clear text. Default:
   * true if the environment variable `AGENTROUTER_ALLOW_HTTP` is `1` or `true`.
   */
  allowHttp?: boolean | undefined
  /**
   * The HTTP client: a function like the global `fetch`. It handles proxies and certificates itself. Default: the
   * global one, or on Node one of this SDK for `caFile`, a `unix:` URL, and the proxies of the environment (`HTTPS_PROXY`,
   * `HTTP_PROXY`, `NO_PROXY`).
   */
  fetch?: typeof globalThis.fetch | undefined
  /**
   * Connect interceptors, the first one outermost, for traces. They see each attempt. Messages have values. Headers do not
   * have the key.
   */
  interceptors?: Interceptor[] | undefined
  /** A function that gets each attempt when it ends, for a log. Errors that it throws are ignored. */
  onAttempt?: ((attempt: Attempt) => void) | undefined
  /** The name and version of the program, such as `gateway/1.4`, for the User-Agent. Browsers ignore it. */
  userAgent?: string | undefined
}

/** The checked {@link ClientOptions}. */
export interface Settings {
  readonly baseUrl: string
  /** The base URL as it is shown: that of a socket is `unix:` and its path. */
  readonly shownUrl: string
  /** The value of the `Authorization` header. */
  readonly authorization: string
  readonly timeoutMs: number
  readonly retries: number
  readonly userAgent: string | undefined
  readonly fetch: typeof globalThis.fetch | undefined
  readonly interceptors: Interceptor[]
  readonly onAttempt: ((attempt: Attempt) => void) | undefined
}

export const TIMEOUT_MS = 10_000
export const RETRIES = 2
const OPTIONS = Object.keys({
  ...{ baseUrl: 0, apiKey: 0, timeoutMs: 0, retries: 0, caFile: 0, allowHttp: 0, fetch: 0, userAgent: 0 },
  ...{ interceptors: 0, onAttempt: 0 },
} satisfies Record<keyof ClientOptions, 0>)
/** The longest time of a timer: about 24 days. */
const LONGEST_MS = 2 ** 31 - 1
const PRODUCT = 'agentrouter-sdk-typescript/0.1.1'

/** Checks the options. Reads those that are not set from the environment. */
export function settings(options: ClientOptions): Settings {
  checkNames(options, OPTIONS)
  const server = options.baseUrl ?? environment('AGENTROUTER_BASE_URL') ?? ''
  const socketPath = socket(server)
  const url = socketPath === undefined ? baseUrl(server) : 'http://localhost'
  return {
    baseUrl: url,
    shownUrl: socketPath === undefined ? url : server,
    authorization: authorization(options.apiKey ?? environment('AGENTROUTER_API_KEY') ?? ''),
    timeoutMs: checkTimeout(options.timeoutMs ?? TIMEOUT_MS),
    retries: checkRetries(options.retries ?? RETRIES),
    userAgent: userAgent(options.userAgent),
    fetch: httpClient(options, url, socketPath),
    interceptors: options.interceptors ?? [],
    onAttempt: options.onAttempt,
  }
}

/** The HTTP client. Undefined: the global `fetch`, as it is at the time of a call. */
function httpClient(options: ClientOptions, url: string, socketPath: string | undefined): Settings['fetch'] {
  const parsed = new URL(url)
  const local = socketPath !== undefined || isThisHost(parsed.hostname)
  // Read first: a malformed variable is an error in any case.
  const allowed = environmentSwitch('AGENTROUTER_ALLOW_HTTP')
  if (parsed.protocol === 'http:' && !local && !(options.allowHttp ?? allowed)) {
    throw new ConfigError(
      'baseUrl',
      'the base URL is http:// to another host, so that the API key and all values would cross the network in clear text. ' +
        'Use https://, or allow it with allowHttp or AGENTROUTER_ALLOW_HTTP=1',
    )
  }
  const refuse = (setting: 'baseUrl' | 'caFile', rule: string) => new ConfigError(setting, rule)
  if (options.fetch !== undefined) {
    if (socketPath !== undefined) throw refuse('baseUrl', 'a unix: URL has no effect with fetch, which decides where it connects')
    if (options.caFile) throw refuse('caFile', 'caFile has no effect with fetch, which has its own certificates')
    return options.fetch
  }
  if (options.caFile && parsed.protocol !== 'https:') throw refuse('caFile', 'caFile has no effect without an https:// URL')
  // A variable may be meant for another program: without TLS it has no effect.
  const caFile = parsed.protocol === 'https:' ? options.caFile || environment('AGENTROUTER_CA_FILE') : undefined
  const proxy = hasProxies() ? undefined : proxyFor(parsed, environment)
  if (socketPath === undefined && caFile === undefined && proxy === undefined) return undefined
  return nodeFetch({ socketPath, caFile, proxy }, url)
}

/** The path of a `unix:` URL. */
function socket(text: string): string | undefined {
  if (typeof text !== 'string' || !text.startsWith('unix:')) return undefined
  if (text === 'unix:') throw new ConfigError('baseUrl', 'the base URL must have the path of a socket after unix:')
  return text.slice('unix:'.length)
}

/** A variable that is on or off. */
function environmentSwitch(name: 'AGENTROUTER_ALLOW_HTTP'): boolean {
  const text = environment(name)?.toLowerCase() ?? '0'
  if (['1', 'true', '0', 'false'].includes(text)) return text === '1' || text === 'true'
  throw new ConfigError('allowHttp', `${name} must be 1, true, 0 or false`)
}

/** Whether the global `fetch` of the runtime uses the proxies of the environment itself. */
function hasProxies(): boolean {
  return 'Bun' in globalThis || 'Deno' in globalThis
}

/** A time in milliseconds for a timer. */
export function checkTimeout(ms: number): number {
  if (typeof ms === 'number' && ms > 0 && ms <= LONGEST_MS) return ms
  throw new ConfigError('timeoutMs', 'the timeout must be more than 0 and at most 2147483647 milliseconds')
}

/** A number of retries. */
export function checkRetries(count: number): number {
  if (Number.isInteger(count) && count >= 0) return count
  throw new ConfigError('retries', 'the number of retries must be 0 or a positive integer')
}

function authorization(key: string): string {
  const refuse = (rule: string) => new ConfigError('apiKey', rule)
  if (key === '') throw refuse('no API key is set. Set apiKey or AGENTROUTER_API_KEY')
  if (typeof key === 'string' && /^(ak-)?[0-9A-Za-z]{16}_[0-9A-Za-z]{49}$/.test(key)) {
    return `Bearer ak-${key.replace(/^ak-/, '')}`
  }
  if (String(key).trim() !== key) throw refuse('the API key must not have spaces or a line end around it')
  if (key.startsWith('Bearer')) throw refuse("the API key must be given without 'Bearer'")
  throw refuse(
    "the API key must be 16 letters and digits, '_', and 49 letters and digits, with or without 'ak-' before them",
  )
}

function baseUrl(text: string): string {
  const refuse = (rule: string) => new ConfigError('baseUrl', rule)
  if (text === '') throw refuse('no base URL is set. Set baseUrl or AGENTROUTER_BASE_URL')
  if (!/^https?:\/\//i.test(text)) throw refuse('the base URL must begin with http://, https:// or unix:')
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw refuse('the base URL must be a URL such as http://127.0.0.1:8080')
  }
  if (/\s/.test(text)) throw refuse('the base URL must not have spaces')
  if (url.username !== '' || url.password !== '') throw refuse('the base URL must not have a user or password in it')
  if (/[?#]/.test(text)) throw refuse('the base URL must not have a query or fragment')
  return url.href.replace(/\/+$/, '')
}

/** Browsers set the header themselves, and another one may need a CORS preflight: none is sent there. */
function userAgent(product: string | undefined): string | undefined {
  if (runtime() === undefined) return undefined
  if (product !== undefined && !/^[\x20-\x7e]+$/.test(product)) {
    throw new ConfigError('userAgent', 'the user agent must be printable ASCII')
  }
  return product === undefined ? PRODUCT : `${product} ${PRODUCT}`
}

/** A variable that is set and not empty. */
function environment(name: string): string | undefined {
  return runtime()?.env?.[name] || undefined
}

/** Node's `process`, or that of another server runtime. Undefined in a browser. */
function runtime(): { env?: Record<string, string | undefined> } | undefined {
  const { process } = globalThis as {
    process?: { env?: Record<string, string | undefined>; versions?: { node?: string } }
  }
  return process?.versions?.node === undefined ? undefined : process
}
