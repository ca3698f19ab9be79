/**
 * Errors of the SDK, and how errors of the RPC library become them.
 *
 * An error contains neither the API key nor a value. Texts of a response are cut to one line of 500 characters. Keys are
 * removed from them, because a proxy may repeat the request.
 */

import { Code as RpcCode, ConnectError } from '@connectrpc/connect'
import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js'

/** The kinds of errors, by the names of gRPC and Connect status codes. */
export const CODE = {
  CANCELED: 'CANCELED',
  UNKNOWN: 'UNKNOWN',
  INVALID_ARGUMENT: 'INVALID_ARGUMENT',
  DEADLINE_EXCEEDED: 'DEADLINE_EXCEEDED',
  NOT_FOUND: 'NOT_FOUND',
  ALREADY_EXISTS: 'ALREADY_EXISTS',
  PERMISSION_DENIED: 'PERMISSION_DENIED',
  RESOURCE_EXHAUSTED: 'RESOURCE_EXHAUSTED',
  FAILED_PRECONDITION: 'FAILED_PRECONDITION',
  ABORTED: 'ABORTED',
  OUT_OF_RANGE: 'OUT_OF_RANGE',
  UNIMPLEMENTED: 'UNIMPLEMENTED',
  INTERNAL: 'INTERNAL',
  UNAVAILABLE: 'UNAVAILABLE',
  DATA_LOSS: 'DATA_LOSS',
  UNAUTHENTICATED: 'UNAUTHENTICATED',
} as const

/** One of the {@link CODE} constants. */
export type Code = (typeof CODE)[keyof typeof CODE]

/** The stable causes of errors that this version of the SDK knows. `docs/errors.md` explains each. */
export const REASON = {
  INVALID_REQUEST: 'INVALID_REQUEST',
  MALFORMED_BODY: 'MALFORMED_BODY',
  BODY_TOO_LARGE: 'BODY_TOO_LARGE',
  UNSUPPORTED_MEDIA_TYPE: 'UNSUPPORTED_MEDIA_TYPE',
  METHOD_NOT_ALLOWED: 'METHOD_NOT_ALLOWED',
  UNKNOWN_ROUTE: 'UNKNOWN_ROUTE',
  UNAUTHENTICATED: 'UNAUTHENTICATED',
  SCOPE_MISSING: 'SCOPE_MISSING',
  REALM_NOT_ALLOWED: 'REALM_NOT_ALLOWED',
  USER_ID_NOT_ALLOWED: 'USER_ID_NOT_ALLOWED',
  SECRET_NOT_FOUND: 'SECRET_NOT_FOUND',
  VERSION_MISMATCH: 'VERSION_MISMATCH',
  VERSIONS_EXHAUSTED: 'VERSIONS_EXHAUSTED',
  PAGE_TOKEN_INVALID: 'PAGE_TOKEN_INVALID',
  RATE_LIMITED: 'RATE_LIMITED',
  OVERLOADED: 'OVERLOADED',
  AUDIT_UNAVAILABLE: 'AUDIT_UNAVAILABLE',
  STORE_UNAVAILABLE: 'STORE_UNAVAILABLE',
  OUTCOME_UNKNOWN: 'OUTCOME_UNKNOWN',
  KEK_UNAVAILABLE: 'KEK_UNAVAILABLE',
  SECRET_CORRUPT: 'SECRET_CORRUPT',
  SHUTTING_DOWN: 'SHUTTING_DOWN',
  DEADLINE_EXCEEDED: 'DEADLINE_EXCEEDED',
  INTERNAL: 'INTERNAL',
} as const

/** One of the {@link REASON} constants. */
export type KnownReason = (typeof REASON)[keyof typeof REASON]

/** The stable cause of an error. A newer server may have more of them. */
export type Reason = KnownReason | (string & {})

/** A field of the request that breaks a rule. */
export interface FieldViolation {
  /** The field's name in the API definition, such as `page_size`. */
  readonly field: string
  /** Its rule, such as "must not be negative". */
  readonly description: string
}

/** The parts of an {@link AgentRouterError}. */
export interface Failure {
  readonly code: Code
  readonly message: string
  readonly reason?: Reason | undefined
  readonly violations?: readonly FieldViolation[] | undefined
  readonly requestId?: string | undefined
  readonly retryAfterMs?: number | undefined
}

/** Identifies the error across copies of this package, such as the ESM and the CommonJS build in one program. */
const BRAND = Symbol.for('@tetrate/agentrouter-sdk/AgentRouterError')

/** The options of `Client`, `Secrets` and calls that have rules. Any other name is that of an unknown option. */
export type Setting =
  | (string & {})
  | 'baseUrl'
  | 'apiKey'
  | 'timeoutMs'
  | 'retries'
  | 'userAgent'
  | 'caFile'
  | 'allowHttp'
  | 'proxy'
  | 'maxAgeMs'
  | 'maxStaleMs'
  | 'maxEntries'

/** A setting is missing or malformed. No request was sent. */
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

/** Refuses options of other names, which would have no effect. */
export function checkNames(options: object, known: readonly string[]): void {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || known.includes(name)) continue
    throw new ConfigError(name, `there is no option ${name}. The options are ${known.join(', ')}`)
  }
}

/**
 * A call failed.
 *
 * `code` is the kind of the error. `reason` is its stable cause. Without a `reason` there is no response of the service,
 * and it is not known whether a write was made. Such an error has one of these codes:
 *
 * - `UNAVAILABLE`: the server cannot be reached, or the connection broke.
 * - `DEADLINE_EXCEEDED`: no response arrived within the timeout.
 * - `CANCELED`: the signal of the call was aborted. The reason of the signal is the `cause`.
 * - Any other: a proxy or another program responded. The code is that of the HTTP status.
 *
 * `message` is one line for a log: code, reason, what happened, and request id. `rawMessage` is what happened alone.
 */
export class AgentRouterError extends Error {
  override readonly name = 'AgentRouterError'
  /** The kind of the error. */
  readonly code: Code
  /** The stable cause. Programs should act on it. Not set if the response did not come from the service. */
  readonly reason: Reason | undefined
  /** The fields of the request that break rules. */
  readonly violations: readonly FieldViolation[]
  /** Identifies the call in the server's log. */
  readonly requestId: string | undefined
  /** How long to wait before the next attempt, in milliseconds, if the response says so. */
  readonly retryAfterMs: number | undefined
  /** What happened and what to do, for people. */
  readonly rawMessage: string

  /** The SDK makes these. Programs may make them in tests. */
  constructor(failure: Failure, options?: { cause?: unknown }) {
    super(line(failure), options)
    this.rawMessage = failure.message
    this.code = failure.code
    this.reason = failure.reason
    this.violations = failure.violations ?? []
    this.requestId = failure.requestId
    this.retryAfterMs = failure.retryAfterMs
    Object.defineProperty(this, BRAND, { value: true })
  }

  /** Whether there is no response of the service. */
  get isTransport(): boolean {
    return this.reason === undefined
  }

  /** @internal */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (this !== AgentRouterError) return super[Symbol.hasInstance](value)
    return typeof value === 'object' && value !== null && BRAND in value
  }
}

/** One line for a log: code, reason, message and request id. */
function line({ code, reason, message, requestId }: Failure): string {
  const cause = reason && reason !== code ? ` (${reason})` : ''
  return `${code}${cause}: ${message}${requestId ? ` [request ${requestId}]` : ''}`
}

/**
 * Turns an error of the RPC library into an error of this SDK.
 *
 * The service puts an ErrorInfo into every error. An error without one comes from the transport or from another program,
 * such as a proxy.
 */
export function fromRpc(thrown: unknown, timeoutMs: number, signal: AbortSignal | undefined): AgentRouterError {
  if (signal?.aborted) {
    return new AgentRouterError({ code: 'CANCELED', message: 'the call was canceled' }, { cause: signal.reason })
  }
  const error = ConnectError.from(thrown)
  const reason = error.findDetails(ErrorInfoSchema)[0]?.reason || error.metadata.get('x-agentrouter-reason')
  if (reason) return refusal(error, tidy(reason))
  if (error.code === RpcCode.DeadlineExceeded) {
    return new AgentRouterError({
      code: 'DEADLINE_EXCEEDED',
      message: `no response from the server within ${timeoutMs} ms`,
    })
  }
  // The RPC library wraps what `fetch` throws. It sets no cause if it read a response.
  const hasResponse = error.cause === undefined
  return new AgentRouterError({
    code: hasResponse ? codeName(error.code) : 'UNAVAILABLE',
    message: hasResponse
      ? `the response is not from the secret service: ${tidy(error.rawMessage)}`
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

/** `NotFound` → `NOT_FOUND`. */
function codeName(code: RpcCode): Code {
  return (RpcCode[code]?.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase() ?? 'UNKNOWN') as Code
}

/** The text of the last error in a chain: "connect ECONNREFUSED …" rather than "fetch failed". */
function innermost(error: ConnectError): string {
  let last: { message: string } = error
  let text = error.rawMessage
  // The bound ends a circular chain.
  for (let depth = 0; depth < 10; depth++) {
    const { cause, errors } = last as { cause?: unknown; errors?: unknown[] }
    const next = cause ?? errors?.[0]
    if (!(next instanceof Error)) break
    last = next
    text = last.message || text
  }
  return tidy(text)
}

/** One line of at most 500 characters, without control characters and keys. */
function tidy(text: string): string {
  const line = text.slice(0, 2000).replace(/\p{Cc}+/gu, ' ')
  return line
    .replace(/(ak-)?[0-9A-Za-z]{16}_[0-9A-Za-z]{49}/g, '…')
    .slice(0, 500)
    .trim()
}
