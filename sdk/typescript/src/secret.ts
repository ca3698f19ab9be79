/** The secret service's seven calls. */

import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { Transport } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-web'
import { clock } from './clock.js'
import { checkNames, fromRpc, type AgentRouterError } from './errors.js'
import { SecretService } from './gen/tars/secret/v1/secret_pb.js'
import type {
  CreateSecretRequestSchema,
  CreateSecretResponse,
  DeleteSecretRequestSchema,
  DeleteSecretResponse,
  GetSecretRequestSchema,
  GetSecretResponse,
  GetSecretValueRequestSchema,
  GetSecretValueResponse,
  ListSecretsRequestSchema,
  ListSecretsResponse,
  RotateSecretRequestSchema,
  RotateSecretResponse,
  Secret,
  ValidateSecretRequestSchema,
  ValidateSecretResponse,
} from './gen/tars/secret/v1/secret_pb.js'
import { message } from './request.js'
import { pauseMs } from './retry.js'
import { checkRetries, checkTimeout, type Attempt, type Settings } from './settings.js'
import { readable } from './text.js'

/** The values of `Secret.status` and `ListSecretsRequest.status`. */
export const STATUS = {
  /** The version that reads return. */
  ACTIVE: 'active',
  /** Replaced by a rotation. Readable by its number until its grace period ends. */
  ROTATED_PENDING: 'rotated_pending',
  /** No longer readable. */
  RETIRED: 'retired',
  /** All of them. In requests only. */
  ANY: 'any',
} as const

/** One of the {@link STATUS} constants. */
export type Status = (typeof STATUS)[keyof typeof STATUS]

/** Settings of one call. */
export interface CallOptions {
  /** Ends the call, or the pause before a retry, when aborted. The call fails with `CANCELED`. */
  signal?: AbortSignal | undefined
  /**
   * The time limit of the call in milliseconds, with its retries and pauses. Default: the client's. If it is out of range,
   * the call rejects with a {@link ConfigError}.
   */
  timeoutMs?: number | undefined
  /** The number of retries, if the call may be retried. Default: the client's. */
  retries?: number | undefined
  /** Headers of the request, such as `traceparent`. */
  headers?: Headers | Readonly<Record<string, string>> | undefined
}

const CALL_OPTIONS = Object.keys({ signal: 0, timeoutMs: 0, retries: 0, headers: 0 } satisfies Record<keyof CallOptions, 0>)

/**
 * The secret service.
 *
 * A call that fails rejects with an {@link AgentRouterError}. Reads, and writes with `expectedVersion`, are retried when the
 * server is unavailable or limits the rate. Other writes are never retried.
 */
export class SecretClient {
  readonly #settings: Settings
  readonly #transport: Transport
  readonly #headers: Record<string, string>

  /** {@link Client} makes these. */
  constructor(settings: Settings) {
    this.#settings = settings
    this.#transport = createConnectTransport({
      baseUrl: settings.baseUrl,
      useBinaryFormat: true,
      interceptors: settings.interceptors,
      fetch: (input, init) => {
        // Here and not before, so that interceptors do not see the key.
        const headers = new Headers(init?.headers)
        headers.set('authorization', settings.authorization)
        // The API does not use cookies.
        return (settings.fetch ?? globalThis.fetch)(input, { ...init, headers, credentials: 'omit' })
      },
    })
    this.#headers = {}
    if (settings.userAgent !== undefined) this.#headers['user-agent'] = settings.userAgent
  }

  /**
   * Creates a secret, or updates the one of that owner, realm and name.
   *
   * It is retried only if `expectedVersion` is set. If the first attempt was made and its response was lost, the second
   * is rejected with `VERSION_MISMATCH`.
   */
  createSecret(
    req: MessageInitShape<typeof CreateSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<CreateSecretResponse> {
    return this.#call(SecretService.method.createSecret, req, req?.expectedVersion != null, options)
  }

  /** Reads the metadata of a secret's active version. */
  getSecret(req: MessageInitShape<typeof GetSecretRequestSchema>, options?: CallOptions): Promise<GetSecretResponse> {
    return this.#call(SecretService.method.getSecret, req, true, options)
  }

  /** Lists one page of metadata. {@link SecretClient.listAllSecrets} iterates over all pages. */
  listSecrets(
    req: MessageInitShape<typeof ListSecretsRequestSchema>,
    options?: CallOptions,
  ): Promise<ListSecretsResponse> {
    return this.#call(SecretService.method.listSecrets, req, true, options)
  }

  /**
   * Iterates over all secrets of a list, starting at `req.pageToken`, `req.pageSize` secrets in each request.
   *
   * It requests a page when the iteration reaches it. The timeout applies to each request.
   */
  async *listAllSecrets(
    req: MessageInitShape<typeof ListSecretsRequestSchema> = {},
    options?: CallOptions,
  ): AsyncGenerator<Secret, void, undefined> {
    let { pageToken } = req
    do {
      const page: ListSecretsResponse = await this.listSecrets({ ...req, pageToken: pageToken ?? '' }, options)
      yield* page.secrets
      pageToken = page.nextPageToken
    } while (pageToken !== '')
  }

  /** Deletes a secret with all its versions. It is never retried. */
  deleteSecret(
    req: MessageInitShape<typeof DeleteSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<DeleteSecretResponse> {
    return this.#call(SecretService.method.deleteSecret, req, false, options)
  }

  /**
   * Gives a secret a new active version. The previous version stays readable for a grace period.
   *
   * It is retried only if `expectedVersion` is set, as {@link SecretClient.createSecret}.
   */
  rotateSecret(
    req: MessageInitShape<typeof RotateSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<RotateSecretResponse> {
    return this.#call(SecretService.method.rotateSecret, req, req?.expectedVersion != null, options)
  }

  /** Checks that the stored bytes of a secret can be opened. If not, the response has `valid` false. */
  validateSecret(
    req: MessageInitShape<typeof ValidateSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<ValidateSecretResponse> {
    return this.#call(SecretService.method.validateSecret, req, true, options)
  }

  /** Reads the value of a secret. For internal services. It needs the scope `secrets/read/internal`. */
  getSecretValue(
    req: MessageInitShape<typeof GetSecretValueRequestSchema>,
    options?: CallOptions,
  ): Promise<GetSecretValueResponse> {
    return this.#call(SecretService.method.getSecretValue, req, true, options)
  }

  /** The settings, without the key. */
  toJSON(): { baseUrl: string; timeoutMs: number; retries: number } {
    const { shownUrl: baseUrl, timeoutMs, retries } = this.#settings
    return { baseUrl, timeoutMs, retries }
  }

  /** @internal What Node's console shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): object {
    return this.toJSON()
  }

  /** Makes a call and its retries within the timeout. */
  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    req: MessageInitShape<I>,
    repeatable: boolean,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    checkNames(options, CALL_OPTIONS)
    const { signal, timeoutMs = this.#settings.timeoutMs } = options
    const retries = options.retries === undefined ? this.#settings.retries : checkRetries(options.retries)
    const input = message(method.input, req)
    const headers = new Headers(options.headers)
    for (const [name, value] of Object.entries(this.#headers)) headers.set(name, value)
    const deadline = clock.now() + checkTimeout(timeoutMs)
    for (let retry = 0; ; retry++) {
      const sentAt = clock.now()
      const ended = (error?: AgentRouterError, pauseMs?: number) =>
        this.#report({ procedure: method.name, attempt: retry + 1, durationMs: clock.now() - sentAt, error, pauseMs })
      try {
        const left = Math.max(1, Math.ceil(deadline - clock.now()))
        const response = await this.#transport.unary(method, signal, left, headers, input as MessageInitShape<I>)
        ended()
        return readable(method.output, response.message)
      } catch (thrown) {
        const error = fromRpc(thrown, timeoutMs, signal)
        const pause = repeatable && retry < retries ? pauseMs(error, retry) : undefined
        // A pause that reaches the timeout is not started.
        const fits = pause !== undefined && clock.now() + pause < deadline
        ended(error, fits ? pause : undefined)
        if (!fits) throw error
        await clock.sleep(pause, signal)
      }
    }
  }

  #report(attempt: Attempt): void {
    try {
      this.#settings.onAttempt?.(attempt)
    } catch {
      // A log that fails must not fail the call.
    }
  }
}
