/**
 * A cache of values for services that read them on a hot path.
 *
 * In memory only. There is no timer: what is asked for is refreshed, in the background from half of its greatest age on,
 * and nothing has to be closed.
 */

import { AgentRouterError, ConfigError } from './errors.js'
import type { SecretClient } from './secret.js'

/** The settings of {@link Secrets}. */
export interface SecretsOptions {
  /** The greatest age of a value while the server can be reached, in milliseconds. Default: 30 000. */
  maxAgeMs?: number | undefined
  /** The greatest age of a value while it cannot, in milliseconds; 0 for none. Default: 300 000 (5 minutes). */
  maxStaleMs?: number | undefined
  /** How many values are kept; the one that was not asked for longest goes first. Default: 1000. */
  maxEntries?: number | undefined
}

interface Entry {
  value: string | undefined
  /** When the request was sent that brought the value. All times are of `performance.now()`. */
  readAt: number
  /** When a refresh last failed for want of an answer. */
  failedAt: number
  refresh: Promise<string> | undefined
}

/** While the server cannot be reached, a new try is made this long after the last one failed, in milliseconds. */
const PAUSE_MS = 1_000
/** After a failure callers get the last good value without waiting for a try, for so long in milliseconds. */
const OUTAGE_MS = 5_000

/**
 * Values that are at most `maxAgeMs` old, read with one request for all who ask at the same time.
 *
 * **Staleness.** A rotation or deletion is seen `maxAgeMs` (30 s) later at the latest: keep that below the grace period
 * of rotations. When the server cannot be reached, is unavailable or asks to slow down, the last good value is served
 * until it is `maxStaleMs` (5 minutes) old; a rotation or deletion in that time is seen by the first try that gets
 * through. When the server refuses in any other way (NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED, …), the value is
 * forgotten at once.
 */
export class Secrets {
  readonly #client: SecretClient
  readonly #maxAgeMs: number
  readonly #maxStaleMs: number
  readonly #maxEntries: number
  readonly #entries = new Map<string, Entry>()

  /**
   * @param client - The client, or its `secret`, whose key needs the scope `secrets/read/internal`.
   * @throws {@link ConfigError} when a number is out of range.
   */
  constructor(client: SecretClient | { readonly secret: SecretClient }, options: SecretsOptions = {}) {
    this.#client = 'secret' in client ? client.secret : client
    this.#maxAgeMs = atLeast('maxAgeMs', 0, options.maxAgeMs ?? 30_000)
    this.#maxStaleMs = atLeast('maxStaleMs', 0, options.maxStaleMs ?? 300_000)
    this.#maxEntries = atLeast('maxEntries', 1, options.maxEntries ?? 1_000)
  }

  /**
   * The plaintext of a secret's active version.
   *
   * @param name - The secret's name.
   * @param realm - Its realm. Default: the current realm of the API key.
   * @param userId - Its owner. Default: the user of the API key.
   * @throws {@link AgentRouterError} as `getSecretValue`.
   */
  async get(name: string, realm = '', userId = ''): Promise<string> {
    const key = JSON.stringify([name, realm, userId])
    const entry = this.#entries.get(key) ?? { value: undefined, readAt: 0, failedAt: -Infinity, refresh: undefined }
    this.#touch(key, entry)

    const now = performance.now()
    const age = now - entry.readAt
    const { value } = entry
    if (value === undefined) return this.#refresh(key, entry, name, realm, userId)
    if (age < this.#maxAgeMs / 2) return value

    const tryingAgain = entry.refresh !== undefined && entry.failedAt > entry.readAt
    const outage = now - entry.failedAt < OUTAGE_MS || tryingAgain
    if (age < this.#maxAgeMs || (outage && age < this.#maxStaleMs)) {
      if (now - entry.failedAt >= PAUSE_MS) {
        // Told to whoever asks next: the entry is gone, or its failure noted.
        this.#refresh(key, entry, name, realm, userId).catch(() => {})
      }
      return value
    }

    try {
      return await this.#refresh(key, entry, name, realm, userId)
    } catch (error) {
      if (unreachable(error) && performance.now() - entry.readAt < this.#maxStaleMs) return value
      throw error
    }
  }

  /**
   * Forgets a value, so that the next `get` reads it anew: for when its user has found it to be wrong. One that is being
   * read is not kept when it comes.
   */
  forget(name: string, realm = '', userId = ''): void {
    this.#entries.delete(JSON.stringify([name, realm, userId]))
  }

  /** Forgets all values. Ones that are being read are not kept when they come. */
  clear(): void {
    this.#entries.clear()
  }

  /** How many values there are, and nothing of them. */
  toJSON(): { entries: number } {
    return { entries: this.#entries.size }
  }

  /** @internal What Node's console shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): object {
    return this.toJSON()
  }

  /** Makes it the entry that was asked for last. */
  #touch(key: string, entry: Entry): void {
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    if (this.#entries.size > this.#maxEntries) {
      const [eldest] = this.#entries.keys()
      if (eldest !== undefined) this.#entries.delete(eldest)
    }
  }

  /** Reads the value, once for all who wait for it. */
  #refresh(key: string, entry: Entry, name: string, realm: string, userId: string): Promise<string> {
    entry.refresh ??= this.#read(key, entry, name, realm, userId).finally(() => (entry.refresh = undefined))
    return entry.refresh
  }

  async #read(key: string, entry: Entry, name: string, realm: string, userId: string): Promise<string> {
    const readAt = performance.now()
    try {
      const { value } = await this.#client.getSecretValue({ name, realm, userId })
      Object.assign(entry, { value, readAt, failedAt: -Infinity })
      return value
    } catch (error) {
      entry.failedAt = performance.now()
      if ((!unreachable(error) || entry.value === undefined) && this.#entries.get(key) === entry) {
        this.#entries.delete(key)
      }
      throw error
    }
  }
}

/** Whether the failure says nothing about the secret and its caller. A proxy's 401 or 403 counts as the service's. */
function unreachable(error: unknown): boolean {
  if (!(error instanceof AgentRouterError)) return false
  const { code, isTransport } = error
  if (code === 'UNAVAILABLE' || code === 'RESOURCE_EXHAUSTED' || code === 'DEADLINE_EXCEEDED') return true
  return isTransport && code !== 'NOT_FOUND' && code !== 'PERMISSION_DENIED' && code !== 'UNAUTHENTICATED'
}

function atLeast(setting: 'maxAgeMs' | 'maxStaleMs' | 'maxEntries', least: number, value: number): number {
  if (typeof value === 'number' && value >= least) return value
  throw new ConfigError(setting, `${setting} must be a number of at least ${least}`)
}
