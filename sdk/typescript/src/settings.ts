/**
 * Settings of a client, and their checks.
 *
 * No error contains the key or the user part of a URL. The form of a key is checked. The server checks its checksum.
 */

import { ConfigError } from './errors.js'

/** The settings of a {@link Client}. The first two are required, here or in the environment. */
export interface ClientOptions {
  /**
   * The URL of the server: `http://` or `https://`, a host, optionally a port and a path prefix. Default: the environment
   * variable `AGENTROUTER_BASE_URL`.
   */
  baseUrl?: string | undefined
  /** The API key, with or without `ak-`. Default: the environment variable `AGENTROUTER_API_KEY`. */
  apiKey?: string | undefined
  /** The time limit of a call in milliseconds, with its retries and pauses. Default: 10 000. */
  timeoutMs?: number | undefined
  /** The number of retries of a read, or of a write with `expectedVersion`. Default: 2. 0 turns retries off. */
  retries?: number | undefined
  /** The HTTP client: a function like the global `fetch`, which is the default. */
  fetch?: typeof globalThis.fetch | undefined
  /** The name and version of the program, such as `gateway/1.4`, for the User-Agent. Browsers ignore it. */
  userAgent?: string | undefined
}

/** The checked {@link ClientOptions}. */
export interface Settings {
  readonly baseUrl: string
  /** The value of the `Authorization` header. */
  readonly authorization: string
  readonly timeoutMs: number
  readonly retries: number
  readonly userAgent: string | undefined
  readonly fetch: typeof globalThis.fetch | undefined
}

export const TIMEOUT_MS = 10_000
export const RETRIES = 2
/** The longest time of a timer: about 24 days. */
const LONGEST_MS = 2 ** 31 - 1
const PRODUCT = 'agentrouter-sdk-typescript/0.1.1'

/** Checks the options. Reads those that are not set from the environment. */
export function settings(options: ClientOptions): Settings {
  return {
    baseUrl: baseUrl(options.baseUrl ?? environment('AGENTROUTER_BASE_URL') ?? ''),
    authorization: authorization(options.apiKey ?? environment('AGENTROUTER_API_KEY') ?? ''),
    timeoutMs: checkTimeout(options.timeoutMs ?? TIMEOUT_MS),
    retries: retries(options.retries ?? RETRIES),
    userAgent: userAgent(options.userAgent),
    fetch: options.fetch,
  }
}

/** A time in milliseconds for a timer. */
export function checkTimeout(ms: number): number {
  if (typeof ms === 'number' && ms > 0 && ms <= LONGEST_MS) return ms
  throw new ConfigError('timeoutMs', 'the timeout must be more than 0 and at most 2147483647 milliseconds')
}

function retries(count: number): number {
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
  if (!/^https?:\/\//i.test(text)) throw refuse('the base URL must begin with http:// or https://')
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
