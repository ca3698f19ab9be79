/**
 * What the client must be told, checked before anything is sent.
 *
 * Neither the key nor the user part of a URL is ever part of an error. Only the shape of a key is looked at; the
 * checksum within it is the server's to judge.
 */

import { ConfigError } from './errors.js'

/** The settings of a {@link Client}. All are optional where the environment has the first two. */
export interface ClientOptions {
  /**
   * Where the server is: `http://` or `https://`, a host, perhaps a port and a path prefix. Default: the environment
   * variable `AGENTROUTER_BASE_URL`.
   */
  baseUrl?: string | undefined
  /** The API key, with or without `ak-`. Default: the environment variable `AGENTROUTER_API_KEY`. */
  apiKey?: string | undefined
  /** Time for one call in milliseconds, its retries and pauses included. Default: 10 000. */
  timeoutMs?: number | undefined
  /** How often a safe call is made again after it failed. Default: 2; 0 turns retries off. */
  retries?: number | undefined
  /** The HTTP client: a function that does as the global `fetch`, which is the default. */
  fetch?: typeof globalThis.fetch | undefined
  /** The name and version of the program, such as `gateway/1.4`, sent before the SDK's own. Browsers ignore it. */
  userAgent?: string | undefined
}

/** What {@link ClientOptions} come to. */
export interface Settings {
  readonly baseUrl: string
  /** The value of the `Authorization` header. */
  readonly authorization: string
  readonly timeoutMs: number
  readonly retries: number
  readonly userAgent: string | undefined
  readonly fetch: typeof globalThis.fetch | undefined
}

const TIMEOUT_MS = 10_000
const RETRIES = 2
/** The longest time that timers take; about 24 days. */
const LONGEST_MS = 2 ** 31 - 1
const PRODUCT = 'agentrouter-sdk-typescript/0.1.1'

/** Checks the options and fills them up from the environment. */
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

/** A time in milliseconds that timers take. */
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
  if (key === '') throw refuse('no API key is set, as apiKey or in AGENTROUTER_API_KEY')
  if (typeof key === 'string' && /^(ak-)?[0-9A-Za-z]{16}_[0-9A-Za-z]{49}$/.test(key)) {
    return `Bearer ak-${key.replace(/^ak-/, '')}`
  }
  if (String(key).trim() !== key) throw refuse('the API key must not have blanks or a line end around it')
  if (key.startsWith('Bearer')) throw refuse("the API key must be given without 'Bearer'")
  throw refuse(
    "the API key must be 16 letters and digits, '_', and 49 letters and digits, with or without 'ak-' before them",
  )
}

function baseUrl(text: string): string {
  const refuse = (rule: string) => new ConfigError('baseUrl', rule)
  if (text === '') throw refuse('no base URL is set, as baseUrl or in AGENTROUTER_BASE_URL')
  if (!/^https?:\/\//i.test(text)) throw refuse('the base URL must begin with http:// or https://')
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw refuse('the base URL must be a URL such as http://127.0.0.1:8080')
  }
  if (/\s/.test(text)) throw refuse('the base URL must not have blanks in it')
  if (url.username !== '' || url.password !== '') throw refuse('the base URL must not have a user or password in it')
  if (/[?#]/.test(text)) throw refuse('the base URL must not have a query or fragment')
  return url.href.replace(/\/+$/, '')
}

/** Browsers name themselves, and may ask the server's leave for a header of that name: there it is left out. */
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

/** Node's `process`, or what other servers' runtimes have in its place; undefined in a browser. */
function runtime(): { env?: Record<string, string | undefined> } | undefined {
  const { process } = globalThis as {
    process?: { env?: Record<string, string | undefined>; versions?: { node?: string } }
  }
  return process?.versions?.node === undefined ? undefined : process
}
