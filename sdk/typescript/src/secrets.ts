/**
 * Cache of values for services that read them often, in memory only. `sdk/cases/cache.json` has the rules.
 *
 * There is no timer and nothing to close: `get` starts the refresh of a value in the background.
 */

import { clock } from './clock.js'
import { AgentRouterError, CODE, ConfigError, checkNames } from './errors.js'
import type { SecretClient } from './secret.js'

/** The settings of {@link Secrets}. */
export interface SecretsOptions {
  /** The age up to which a value is returned without waiting for the server, in milliseconds. Default: 30 000. */
  maxAgeMs?: number | undefined
  /**
   * The age up to which a value is returned while the server is unavailable, in milliseconds. A value below `maxAgeMs`
   * counts as `maxAgeMs`. Default: 300 000 (5 minutes).
   */
  maxStaleMs?: number | undefined
  /** The largest number of values. At the limit the least recently used value is dropped. Default: 10 000. */
  maxEntries?: number | undefined
}

export const MAX_AGE_MS = 30_000
export const MAX_STALE_MS = 300_000
export const MAX_ENTRIES = 10_000
/** The shortest time between a failed refresh of a value and its next refresh, in milliseconds. */
export const REFRESH_DELAY_MS = 1_000

interface Entry {
  value: string
  /** When the request for the value was sent. All times are of `clock.now()`. */
  readAt: number
  /** When the last refresh failed without removing the value. */
  failedAt: number
  /** No refresh before this time. */
  waitTill: number
}

/**
 * A cache of values. Concurrent calls for the same value share one request.
 *
 * A value from `get` was current at most `maxAgeMs` ago. From half of `maxAgeMs` on, `get` also refreshes the value in the
 * background. While the server is unavailable, `get` returns the last value until it is `maxStaleMs` old: for that long a
 * revoked key or a deleted secret may go unnoticed in an outage. An outage is UNAVAILABLE, DEADLINE_EXCEEDED,
 * RESOURCE_EXHAUSTED, or any error without a reason except NOT_FOUND, PERMISSION_DENIED and UNAUTHENTICATED. Any other
 * error removes the value at once and is thrown.
 */
export class Secrets {
  readonly #client: SecretClient
  readonly #maxAgeMs: number
  readonly #maxStaleMs: number
  readonly #maxEntries: number
  /** The least recently used value is the first. */
  readonly #entries = new Map<string, Entry>()
  readonly #flights = new Map<string, Promise<string>>()
  #sweptAt = -Infinity

  /**
   * @param client - The client, or its `secret`. Its key needs the scope `secrets/read/internal`.
   * @throws {@link ConfigError} when a number is out of range.
   */
  constructor(client: SecretClient | { readonly secret: SecretClient }, options: SecretsOptions = {}) {
    checkNames(options, ['maxAgeMs', 'maxStaleMs', 'maxEntries'])
    this.#client = 'secret' in client ? client.secret : client
    this.#maxAgeMs = checked('maxAgeMs', options.maxAgeMs ?? MAX_AGE_MS, (value) => value > 0)
    const maxStaleMs = checked('maxStaleMs', options.maxStaleMs ?? MAX_STALE_MS, (value) => value >= 0)
    this.#maxStaleMs = Math.max(maxStaleMs, this.#maxAgeMs)
    this.#maxEntries = checked('maxEntries', options.maxEntries ?? MAX_ENTRIES, (value) => value >= 1)
  }

  /**
   * Returns the active value of a secret.
   *
   * @param name - The secret's name.
   * @param realm - Its realm. Default: the current realm of the API key.
   * @param userId - Its owner. Default: the user of the API key.
   * @throws {@link AgentRouterError} as `getSecretValue`.
   */
  async get(name: string, realm = '', userId = ''): Promise<string> {
    const key = JSON.stringify([name, realm, userId])
    const refresh = () => this.#flights.get(key) ?? this.#refresh(key, name, realm, userId)
    const entry = this.#entries.get(key)
    if (entry === undefined) return refresh()
    // To the end, as the most recently used.
    this.#entries.delete(key)
    this.#entries.set(key, entry)

    const now = clock.now()
    const age = now - entry.readAt
    const delayed = now < entry.waitTill
    const outage = delayed || now - entry.failedAt < this.#maxAgeMs
    if (age >= this.#maxAgeMs && (!outage || age >= this.#maxStaleMs)) return refresh()
    // A later `get` throws the error: the refresh has then removed the value.
    if (age >= this.#maxAgeMs / 2 && !delayed) refresh().catch(() => {})
    return entry.value
  }

  /**
   * Removes a value, so that the next `get` reads it from the server. Use it when the value turns out to be wrong. The
   * value of a request in flight is not kept.
   */
  forget(name: string, realm = '', userId = ''): void {
    const key = JSON.stringify([name, realm, userId])
    this.#entries.delete(key)
    this.#flights.delete(key)
  }

  /** Removes all values. The values of requests in flight are not kept. */
  clear(): void {
    this.#entries.clear()
    this.#flights.clear()
  }

  /** The number of values, and no value. */
  toJSON(): { entries: number } {
    return { entries: this.#entries.size }
  }

  /** @internal What Node's console shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): object {
    return this.toJSON()
  }

  /** Reads the value from the server, once for all callers that wait for it. */
  #refresh(key: string, name: string, realm: string, userId: string): Promise<string> {
    const sentAt = clock.now()
    // False once `forget` or `clear` has removed the request.
    const kept = () => this.#flights.get(key) === flight
    const flight: Promise<string> = this.#client.getSecretValue({ name, realm, userId }).then(
      ({ value }) => {
        if (kept()) this.#store(key, value, sentAt)
        return value
      },
      (error: unknown) => {
        if (kept()) return this.#failed(key, error)
        throw error
      },
    )
    this.#flights.set(key, flight)
    return flight
  }

  #store(key: string, value: string, readAt: number): void {
    this.#flights.delete(key)
    this.#entries.delete(key)
    this.#entries.set(key, { value, readAt, failedAt: -Infinity, waitTill: -Infinity })
    const now = clock.now()
    if (this.#entries.size > this.#maxEntries || now - this.#sweptAt >= this.#maxAgeMs) {
      this.#sweptAt = now
      for (const [other, entry] of this.#entries) {
        if (other !== key && now - entry.readAt >= this.#maxStaleMs) this.#entries.delete(other)
      }
    }
    for (const [oldest] of this.#entries) {
      if (this.#entries.size <= this.#maxEntries) break
      this.#entries.delete(oldest)
    }
  }

  /** The value that is served in spite of the error. Throws the error if there is none. */
  #failed(key: string, error: unknown): string {
    this.#flights.delete(key)
    const entry = this.#entries.get(key)
    const now = clock.now()
    if (entry !== undefined && isOutage(error) && now - entry.readAt < this.#maxStaleMs) {
      entry.failedAt = now
      entry.waitTill = now + Math.max(REFRESH_DELAY_MS, error.retryAfterMs ?? 0)
      return entry.value
    }
    this.#entries.delete(key)
    throw error
  }
}

/**
 * Whether the error says nothing about the secret and the key, only that the server did not serve the request. The 401,
 * 403 or 404 of a proxy counts as the server's.
 */
function isOutage(error: unknown): error is AgentRouterError {
  if (!(error instanceof AgentRouterError)) return false
  switch (error.code) {
    case CODE.UNAVAILABLE:
    case CODE.DEADLINE_EXCEEDED:
    case CODE.RESOURCE_EXHAUSTED:
      return true
    case CODE.NOT_FOUND:
    case CODE.PERMISSION_DENIED:
    case CODE.UNAUTHENTICATED:
      return false
    default:
      return error.isTransport
  }
}

function checked(
  setting: 'maxAgeMs' | 'maxStaleMs' | 'maxEntries',
  value: number,
  fits: (value: number) => boolean,
): number {
  if (typeof value === 'number' && fits(value)) return value
  const rule = { maxAgeMs: 'above 0', maxStaleMs: 'of at least 0', maxEntries: 'of at least 1' }[setting]
  throw new ConfigError(setting, `${setting} must be a number ${rule}`)
}
