/**
 * Why a call did not succeed: the settings, the server's refusal, or no answer.
 *
 * Neither the API key nor a value is ever part of an error. Texts of others are cut to one line of 500 characters, and
 * what looks like a key is taken out of them, since a proxy may repeat what it was sent.
 */

import { Code as RpcCode, ConnectError } from '@connectrpc/connect'
import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js'

/** The kind of a failure: the name of a gRPC status code. */
export type Code =
  | 'CANCELLED'
  | 'UNKNOWN'
  | 'INVALID_ARGUMENT'
  | 'DEADLINE_EXCEEDED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'PERMISSION_DENIED'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'OUT_OF_RANGE'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'DATA_LOSS'
  | 'UNAUTHENTICATED'

/** The reasons that this version of the SDK knows of. */
export type KnownReason =
  | 'INVALID_REQUEST'
  | 'MALFORMED_BODY'
  | 'BODY_TOO_LARGE'
  | 'UNSUPPORTED_MEDIA_TYPE'
  | 'METHOD_NOT_ALLOWED'
  | 'UNKNOWN_ROUTE'
  | 'UNAUTHENTICATED'
  | 'SCOPE_MISSING'
  | 'REALM_NOT_ALLOWED'
  | 'USER_ID_NOT_ALLOWED'
  | 'SECRET_NOT_FOUND'
  | 'VERSION_MISMATCH'
  | 'VERSIONS_EXHAUSTED'
  | 'PAGE_TOKEN_INVALID'
  | 'RATE_LIMITED'
  | 'OVERLOADED'
  | 'AUDIT_UNAVAILABLE'
  | 'STORE_UNAVAILABLE'
  | 'KEK_UNAVAILABLE'
  | 'SECRET_CORRUPT'
  | 'SHUTTING_DOWN'
  | 'DEADLINE_EXCEEDED'
  | 'INTERNAL'

/** The cause of a refusal in one stable word. A newer server may have more of them. */
export type Reason = KnownReason | (string & {})

/** One field that breaks its rule. */
export interface FieldViolation {
  /** The field's name in the API definition, such as `page_size`. */
  readonly field: string
  /** Its rule, such as "must not be negative". */
  readonly description: string
}

/** What an {@link AgentRouterError} is made of. */
export interface Failure {
  readonly code: Code
  readonly message: string
  readonly reason?: Reason | undefined
  readonly violations?: readonly FieldViolation[] | undefined
  readonly requestId?: string | undefined
  readonly retryAfterMs?: number | undefined
}

/** Marks the error across copies of this package, such as its ESM and its CommonJS build in one program. */
const BRAND = Symbol.for('@tetrate/agentrouter-sdk/AgentRouterError')

/** The options of `Client` and `Secrets` that have rules. */
export type Setting =
  | 'baseUrl'
  | 'apiKey'
  | 'timeoutMs'
  | 'retries'
  | 'userAgent'
  | 'maxAgeMs'
  | 'maxStaleMs'
  | 'maxEntries'

/** A setting is missing or malformed. Nothing was sent. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'

  constructor(
    /** Which setting. */
    readonly setting: Setting,
    message: string,
  ) {
    super(message)
  }
}

/**
 * A call did not succeed.
 *
 * `code` tells the kind: `switch (error.code)` covers all of them. `reason` tells the cause, and whether the service
 * itself said no: without one there was no answer of the service, and whether a write was done is not known. Such an
 * error has the code `UNAVAILABLE` (it cannot be reached, or the connection broke), `DEADLINE_EXCEEDED` (no answer within
 * the timeout), `CANCELLED` (the call's signal was aborted; the signal's reason is the `cause`), or, if a proxy or
 * another program answered, the code that goes with the HTTP status.
 */
export class AgentRouterError extends Error {
  override readonly name = 'AgentRouterError'
  /** The kind of failure. */
  readonly code: Code
  /** The cause in one stable word: what a program should act on. Not set if the service gave no answer. */
  readonly reason: Reason | undefined
  /** The fields at fault, when the request broke rules. */
  readonly violations: readonly FieldViolation[]
  /** What finds this call in the server's log. */
  readonly requestId: string | undefined
  /** How long to wait before the next try, in milliseconds, if the server said so. */
  readonly retryAfterMs: number | undefined

  /** Made by the SDK; of use to a program in its tests. */
  constructor(failure: Failure, options?: { cause?: unknown }) {
    super(failure.message, options)
    this.code = failure.code
    this.reason = failure.reason
    this.violations = failure.violations ?? []
    this.requestId = failure.requestId
    this.retryAfterMs = failure.retryAfterMs
    Object.defineProperty(this, BRAND, { value: true })
  }

  /** Whether there was no answer of the service. */
  get isTransport(): boolean {
    return this.reason === undefined
  }

  /** @internal */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (this !== AgentRouterError) return super[Symbol.hasInstance](value)
    return typeof value === 'object' && value !== null && BRAND in value
  }
}

/**
 * Sorts what the RPC library throws into refusals and failures to get an answer.
 *
 * The service puts an ErrorInfo into every refusal, so an error without one comes from the transport, or from something
 * that is not the service (a proxy, a load balancer, another program on that port).
 */
export function fromRpc(thrown: unknown, timeoutMs: number, signal: AbortSignal | undefined): AgentRouterError {
  if (signal?.aborted) {
    return new AgentRouterError({ code: 'CANCELLED', message: 'the call was cancelled' }, { cause: signal.reason })
  }
  const error = ConnectError.from(thrown)
  const reason = error.findDetails(ErrorInfoSchema)[0]?.reason || error.metadata.get('x-agentrouter-reason')
  if (reason) return refusal(error, tidy(reason))
  if (error.code === RpcCode.DeadlineExceeded) {
    return new AgentRouterError({
      code: 'DEADLINE_EXCEEDED',
      message: `no answer from the server within ${timeoutMs} ms`,
    })
  }
  // What was thrown on the way, by `fetch` or while reading, is wrapped; what an HTTP status came to is not.
  const answered = error.cause === undefined
  return new AgentRouterError({
    code: answered ? codeName(error.code) : 'UNAVAILABLE',
    message: answered
      ? `what answered is not the secret service: ${tidy(error.rawMessage)}`
      : `cannot reach the server: ${innermost(error)}`,
    retryAfterMs: retryAfterMs(error),
  })
}

function refusal(error: ConnectError, reason: string): AgentRouterError {
  const violations = error.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations)
  const requestId = error.findDetails(RequestInfoSchema)[0]?.requestId || error.metadata.get('x-request-id')
  return new AgentRouterError({
    code: codeName(error.code),
    message: tidy(error.rawMessage),
    reason,
    violations: violations.map(({ field, description }) => ({ field: tidy(field), description: tidy(description) })),
    requestId: requestId ? tidy(requestId) : undefined,
    retryAfterMs: retryAfterMs(error),
  })
}

function retryAfterMs(error: ConnectError): number | undefined {
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay
  if (delay) return Number(delay.seconds) * 1000 + Math.ceil(delay.nanos / 1e6)
  const seconds = error.metadata.get('retry-after') ?? ''
  return /^[0-9]{1,9}$/.test(seconds) ? Number(seconds) * 1000 : undefined
}

/** `NotFound` → `NOT_FOUND`; the one name that gRPC spells in another way is seen to. */
function codeName(code: RpcCode): Code {
  const name = RpcCode[code]?.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase() ?? 'UNKNOWN'
  return (name === 'CANCELED' ? 'CANCELLED' : name) as Code
}

/** The text of the last error in a chain: "connect ECONNREFUSED …" rather than "fetch failed". */
function innermost(error: ConnectError): string {
  let last: { message: string } = error
  let text = error.rawMessage
  // A chain that bites its own tail ends too.
  for (let depth = 0; depth < 10; depth++) {
    const { cause, errors } = last as { cause?: unknown; errors?: unknown[] }
    const next = cause ?? errors?.[0]
    if (!(next instanceof Error)) break
    last = next
    text = last.message || text
  }
  return tidy(text)
}

/** One line of at most 500 characters, without control characters and without anything of the shape of a key. */
function tidy(text: string): string {
  const line = text.slice(0, 2000).replace(/\p{Cc}+/gu, ' ')
  return line
    .replace(/(ak-)?[0-9A-Za-z]{16}_[0-9A-Za-z]{49}/g, '…')
    .slice(0, 500)
    .trim()
}
