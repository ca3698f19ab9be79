/**
 * A secret service in memory, for the tests of programs that use the SDK.
 *
 * ```ts
 * import { FakeServer } from '@tetrate/agentrouter-sdk/testing'
 *
 * const server = new FakeServer()
 * server.put('llm-keys', 'openai-api-key', 'sk-test')
 * const client = server.client() // a Client: pass it to the code under test
 * ```
 *
 * It opens no port, so there is nothing to close. It implements the seven calls for one caller with all scopes: versions,
 * grace periods, `expectedVersion`, `updateMask`, filters and pages. It does not check scopes, the rules of names and values,
 * or rate limits. `fail` makes calls fail as the service does.
 *
 * @packageDocumentation
 */

import { create, fromBinary, toBinary, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { Client } from './client.js'
import { CODE, REASON, type Failure } from './errors.js'
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js'
import {
  SecretSchema,
  SecretService,
  type CreateSecretRequest,
  type DeleteSecretRequest,
  type GetSecretRequest,
  type GetSecretValueRequest,
  type ListSecretsRequest,
  type RotateSecretRequest,
  type Secret,
  type ValidateSecretRequest,
} from './gen/tars/secret/v1/secret_pb.js'
import { STATUS } from './secret.js'
import type { ClientOptions } from './settings.js'

/** The user of the key of {@link FakeServer.client}. */
export const USER_ID = 'test'
/** The current realm of that key. */
export const REALM = 'default'

/** How long a rotated version stays readable unless the request has `gracePeriod`, in milliseconds. */
const GRACE_MS = 24 * 60 * 60 * 1000
/** These realms belong to the user `system`. */
const LLM_REALMS = ['llm-keys', 'llm', 'llm-providers', 'ai-keys', 'byok']
/** It has the form of an API key. */
const KEY = `${'0'.repeat(16)}_${'0'.repeat(49)}`

interface Version {
  secret: Secret
  value: string
}

/** A secret service in memory. */
export class FakeServer {
  /** The names of the calls that arrived, such as `getSecretValue`, oldest first. Each retry is one. */
  readonly calls: string[] = []
  readonly #failures: Failure[] = []
  /** The versions of each secret, oldest first. The last one is active. */
  readonly #secrets = new Map<string, Version[]>()
  #created = 0

  /** Makes a client of the server, with the retries of the SDK unless the options have others. */
  client(options: ClientOptions = {}): Client {
    return new Client({ baseUrl: 'https://agentrouter.test', apiKey: KEY, fetch: this.fetch, ...options })
  }

  /** Stores a value: creates the secret, or gives it a new active version. Returns the version. */
  put(realm: string, name: string, value: string): number {
    return this.#create({ realm, name, value }).secret.version
  }

  /**
   * Makes the next requests fail, one for each failure, before they do anything. The client tries again where it would with
   * the service: `server.fail({ code: 'UNAVAILABLE', reason: 'OVERLOADED', message: 'busy' })`.
   *
   * @throws TypeError when a code is not one of {@link CODE}.
   */
  fail(...failures: Failure[]): void {
    for (const { code } of failures) {
      if (!Object.hasOwn(CODE, code)) throw new TypeError(`there is no code ${code}: use one of CODE`)
    }
    this.#failures.push(...failures)
  }

  /** The server as an HTTP client: what `client` uses. */
  readonly fetch: typeof globalThis.fetch = async (input, init) => {
    init?.signal?.throwIfAborted()
    const name = new URL(String(input)).pathname.split('/').at(-1)
    const method = SecretService.methods.find((method) => method.name === name)
    if (method === undefined) return refusal({ code: CODE.UNIMPLEMENTED, reason: REASON.UNKNOWN_ROUTE, message: 'No such call.' })
    this.calls.push(method.localName)
    const failure = this.#failures.shift()
    if (failure !== undefined) return refusal(failure)
    const request = fromBinary(method.input, init?.body as Uint8Array)
    try {
      const body = toBinary(method.output, create<DescMessage>(method.output, this.#respond(request) as Record<string, unknown>))
      return new Response(body as Uint8Array<ArrayBuffer>, { headers: { 'content-type': 'application/proto' } })
    } catch (thrown) {
      if (thrown instanceof Refused) return refusal(thrown.failure)
      throw thrown
    }
  }

  #respond(request: MessageShape<(typeof SecretService)['methods'][number]['input']>): object {
    switch (request.$typeName.split('.').at(-1)) {
      case 'CreateSecretRequest':
        return this.#create(request as CreateSecretRequest)
      case 'GetSecretRequest':
        return { secret: active(this.#find(request as GetSecretRequest)).secret }
      case 'ListSecretsRequest':
        return this.#list(request as ListSecretsRequest)
      case 'DeleteSecretRequest':
        this.#find(request as DeleteSecretRequest)
        return { success: this.#secrets.delete(place(request as DeleteSecretRequest)) }
      case 'RotateSecretRequest':
        return this.#rotate(request as RotateSecretRequest)
      case 'ValidateSecretRequest':
        this.#find(request as ValidateSecretRequest)
        return { valid: true }
      default:
        return this.#value(request as GetSecretValueRequest)
    }
  }

  #create(request: Partial<CreateSecretRequest>): { secret: Secret } {
    const { name, realm = '', value = '', description = '', tags = {}, expectedVersion, updateMask } = request
    need('name', name)
    const at = place(request)
    const found = this.#secrets.get(at)
    const current = found === undefined ? 0 : active(found).secret.version
    if (expectedVersion !== undefined && expectedVersion !== current) throw mismatch()
    const writes = (path: string, given: boolean) =>
      updateMask && found ? updateMask.paths.includes(path) : given
    const writesValue = writes('value', value !== '')
    if (found === undefined || writesValue) need('value', value)
    const now = timestampFromMs(Date.now())
    if (found === undefined) {
      const owner = JSON.parse(at)[0] as string
      // A ULID has 26 characters.
      const id = String(++this.#created).padStart(26, '0')
      const secret = create(SecretSchema, {
        ...{ id, name: name!, realm: realm || REALM, userId: owner, description, tags: { ...tags }, kekId: 'test' },
        ...{ status: STATUS.ACTIVE, version: 1, createdAt: now, updatedAt: now },
      })
      this.#secrets.set(at, [{ secret, value }])
      return { secret }
    }
    if (writesValue) {
      retire(active(found))
      append(found, value)
    }
    const { secret } = active(found)
    if (writes('description', description !== '')) secret.description = description
    if (writes('tags', Object.keys(tags).length > 0)) secret.tags = { ...tags }
    secret.updatedAt = now
    return { secret }
  }

  #list(request: ListSecretsRequest): object {
    const status = request.status || STATUS.ACTIVE
    const rows: Secret[] = []
    for (const [at, versions] of this.#secrets) {
      const [owner, realm, name] = JSON.parse(at) as [string, string, string]
      const mine = owner === ownerOf(realm)
      if (!mine || (request.realm && request.realm !== realm) || !name.startsWith(request.namePrefix)) continue
      expire(versions)
      rows.push(
        ...versions
          .map(({ secret }) => secret)
          .filter((secret) => status === STATUS.ANY || secret.status === status)
          .filter((secret) => Object.entries(request.tags).every(([key, value]) => secret.tags[key] === value)),
      )
    }
    const order = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
    rows.sort((a, b) => order(a.realm, b.realm) || order(a.name, b.name) || a.version - b.version)
    if (request.pageSize < 0) throw invalid('page_size', 'must not be negative')
    const start = Number(request.pageToken)
    if (!Number.isInteger(start) || start < 0 || start > rows.length) {
      const message = 'The page token is not valid. Start the list again.'
      throw new Refused({ code: CODE.INVALID_ARGUMENT, reason: REASON.PAGE_TOKEN_INVALID, message })
    }
    const end = Math.min(start + Math.min(request.pageSize || 50, 1000), rows.length)
    return { secrets: rows.slice(start, end), nextPageToken: end < rows.length ? String(end) : '' }
  }

  #rotate(request: RotateSecretRequest): { secret: Secret } {
    need('name', request.name)
    need('new_value', request.newValue)
    const versions = this.#find(request)
    const { secret: before } = active(versions)
    if (request.expectedVersion !== undefined && request.expectedVersion !== before.version) throw mismatch()
    const period = request.gracePeriod
    const graceMs = period ? Number(period.seconds) * 1000 + period.nanos / 1e6 : GRACE_MS
    append(versions, request.newValue)
    before.status = STATUS.ROTATED_PENDING
    before.expiresAt = timestampFromMs(Date.now() + graceMs)
    const { secret } = active(versions)
    secret.rotatedAt = secret.updatedAt = timestampFromMs(Date.now())
    return { secret }
  }

  #value(request: GetSecretValueRequest): object {
    const versions = this.#find(request)
    if (request.version === 0) return active(versions)
    const version = versions.find(({ secret }) => secret.version === request.version)
    if (version === undefined || version.secret.status === STATUS.RETIRED) throw notFound()
    return version
  }

  /** The versions of a secret. Retires those whose grace period is over. */
  #find(request: { name: string; realm: string; userId?: string }): Version[] {
    need('name', request.name)
    const versions = this.#secrets.get(place(request))
    if (versions === undefined) throw notFound()
    expire(versions)
    return versions
  }
}

/** An error of the service on its way out of a call. */
class Refused extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message)
  }
}

function ownerOf(realm: string, userId = ''): string {
  return LLM_REALMS.includes(realm) ? 'system' : userId || USER_ID
}

function place({ name, realm, userId }: { name?: string; realm?: string; userId?: string }): string {
  return JSON.stringify([ownerOf(realm || REALM, userId), realm || REALM, name])
}

function active(versions: Version[]): Version {
  return versions.at(-1)!
}

/** Appends an active version with the metadata of the one before. */
function append(versions: Version[], value: string): void {
  const { secret } = active(versions)
  const next = { ...secret, tags: { ...secret.tags }, version: secret.version + 1, status: STATUS.ACTIVE }
  versions.push({ secret: create(SecretSchema, { ...next, expiresAt: undefined as never }), value })
}

function retire(version: Version): void {
  version.secret.status = STATUS.RETIRED
  delete version.secret.expiresAt
  version.value = ''
}

/** Retires the versions whose grace period is over. */
function expire(versions: Version[]): void {
  for (const version of versions) {
    const { status, expiresAt } = version.secret
    if (status !== STATUS.ROTATED_PENDING || expiresAt === undefined) continue
    if (Number(expiresAt.seconds) * 1000 + expiresAt.nanos / 1e6 <= Date.now()) retire(version)
  }
}

/** Refuses a request without a field. */
function need(field: string, value: string | undefined): void {
  if (!value) throw invalid(field, 'must be set')
}

function invalid(field: string, description: string): Refused {
  const message = `Invalid request: ${field} ${description}.`
  return new Refused({ code: CODE.INVALID_ARGUMENT, reason: REASON.INVALID_REQUEST, message, violations: [{ field, description }] })
}

function notFound(): Refused {
  const message = 'There is no such secret, or no such readable version.'
  return new Refused({ code: CODE.NOT_FOUND, reason: REASON.SECRET_NOT_FOUND, message })
}

function mismatch(): Refused {
  const message = 'expected_version is not the current version. Read the secret and decide again.'
  return new Refused({ code: CODE.ABORTED, reason: REASON.VERSION_MISMATCH, message })
}

/** An error as the service sends it. */
function refusal(failure: Failure): Response {
  const details: object[] = []
  const add = <D extends DescMessage>(schema: D, message: object) => {
    const bytes = toBinary(schema, create<DescMessage>(schema, message as Record<string, unknown>) as MessageShape<D>)
    details.push({ type: schema.typeName, value: btoa(String.fromCharCode(...bytes)).replace(/=+$/, '') })
  }
  if (failure.reason) add(ErrorInfoSchema, { reason: failure.reason, domain: 'agentrouter.secret.v1' })
  if (failure.violations?.length) add(BadRequestSchema, { fieldViolations: failure.violations })
  if (failure.retryAfterMs) {
    const seconds = BigInt(Math.floor(failure.retryAfterMs / 1000))
    add(RetryInfoSchema, { retryDelay: { seconds, nanos: (failure.retryAfterMs % 1000) * 1e6 } })
  }
  const headers = { 'content-type': 'application/json', 'x-request-id': failure.requestId || 'fake' }
  const body = JSON.stringify({ code: failure.code.toLowerCase(), message: failure.message, details })
  return new Response(body, { status: 500, headers })
}
