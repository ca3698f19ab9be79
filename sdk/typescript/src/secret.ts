/** The secret service's seven calls. */

import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { Transport } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-web'
import { fromRpc } from './errors.js'
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
import { pauseMs, sleep } from './retry.js'
import { checkTimeout, type Settings } from './settings.js'

/** What `Secret.status` may say, and `ListSecretsRequest.status` may ask for. */
export const STATUS = {
  /** The version that a read gets. */
  ACTIVE: 'active',
  /** Replaced by a rotation, readable by its number until its grace is over. */
  ROTATED_PENDING: 'rotated_pending',
  /** Readable no more. */
  RETIRED: 'retired',
  /** All of them; in requests only. */
  ANY: 'any',
} as const

/** One of the {@link STATUS} constants. */
export type Status = (typeof STATUS)[keyof typeof STATUS]

/** Settings of one call. */
export interface CallOptions {
  /** Ends the call, and the pauses between its tries, when aborted: it fails with `CANCELLED`. */
  signal?: AbortSignal | undefined
  /**
   * Time for the call in milliseconds, its retries and pauses included. Default: the client's. Out of range, the call
   * rejects with a {@link ConfigError}.
   */
  timeoutMs?: number | undefined
}

/**
 * The secret service.
 *
 * Every call rejects with an {@link AgentRouterError} if it does not succeed. Reads, and writes that carry
 * `expectedVersion`, are made again when the server is unavailable or asks to slow down; a write without it never is.
 */
export class SecretClient {
  readonly #settings: Settings
  readonly #transport: Transport
  readonly #headers: Record<string, string>

  /** Made by {@link Client}. */
  constructor(settings: Settings) {
    this.#settings = settings
    this.#transport = createConnectTransport({
      baseUrl: settings.baseUrl,
      useBinaryFormat: true,
      // Cookies of a browser's user are no business of this API.
      fetch: (input, init) => (settings.fetch ?? globalThis.fetch)(input, { ...init, credentials: 'omit' }),
    })
    this.#headers = { authorization: settings.authorization }
    if (settings.userAgent !== undefined) this.#headers['user-agent'] = settings.userAgent
  }

  /**
   * Creates a secret, or updates the one of that owner, realm and name.
   *
   * Made again after a failure only if `expectedVersion` is set. If the first try was done although its answer got
   * lost, the second is refused with `VERSION_MISMATCH`.
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

  /** Lists one page of metadata; {@link SecretClient.listAllSecrets} walks over all of them. */
  listSecrets(
    req: MessageInitShape<typeof ListSecretsRequestSchema>,
    options?: CallOptions,
  ): Promise<ListSecretsResponse> {
    return this.#call(SecretService.method.listSecrets, req, true, options)
  }

  /**
   * Walks over all pages of a list, from `req.pageToken` on, `req.pageSize` secrets at a time.
   *
   * One request per page, made when its first secret is asked for; the timeout is for each of them.
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

  /** Deletes a secret with all its versions. Never made again after a failure. */
  deleteSecret(
    req: MessageInitShape<typeof DeleteSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<DeleteSecretResponse> {
    return this.#call(SecretService.method.deleteSecret, req, false, options)
  }

  /**
   * Gives a secret a new active version and leaves the one before it readable for a grace period.
   *
   * Made again after a failure only if `expectedVersion` is set, as for {@link SecretClient.createSecret}.
   */
  rotateSecret(
    req: MessageInitShape<typeof RotateSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<RotateSecretResponse> {
    return this.#call(SecretService.method.rotateSecret, req, req?.expectedVersion != null, options)
  }

  /** Tries whether the stored bytes of a secret still open. That one does not is an answer with `valid` false. */
  validateSecret(
    req: MessageInitShape<typeof ValidateSecretRequestSchema>,
    options?: CallOptions,
  ): Promise<ValidateSecretResponse> {
    return this.#call(SecretService.method.validateSecret, req, true, options)
  }

  /** Reads the plaintext of a secret. For internal services; needs the scope `secrets/read/internal`. */
  getSecretValue(
    req: MessageInitShape<typeof GetSecretValueRequestSchema>,
    options?: CallOptions,
  ): Promise<GetSecretValueResponse> {
    return this.#call(SecretService.method.getSecretValue, req, true, options)
  }

  /** The settings, without the key. */
  toJSON(): { baseUrl: string; timeoutMs: number; retries: number } {
    const { baseUrl, timeoutMs, retries } = this.#settings
    return { baseUrl, timeoutMs, retries }
  }

  /** @internal What Node's console shows. */
  [Symbol.for('nodejs.util.inspect.custom')](): object {
    return this.toJSON()
  }

  /** Makes a call, again if that is safe and may help, within the timeout as a whole. */
  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    req: MessageInitShape<I>,
    repeatable: boolean,
    { signal, timeoutMs = this.#settings.timeoutMs }: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const input = message(method.input, req)
    const deadline = performance.now() + checkTimeout(timeoutMs)
    for (let retry = 0; ; retry++) {
      try {
        const left = Math.max(1, Math.ceil(deadline - performance.now()))
        const answer = await this.#transport.unary(method, signal, left, this.#headers, input as MessageInitShape<I>)
        return answer.message
      } catch (thrown) {
        const error = fromRpc(thrown, timeoutMs, signal)
        const pause = repeatable && retry < this.#settings.retries ? pauseMs(error, retry) : undefined
        // What cannot be waited for within the timeout is told at once.
        if (pause === undefined || performance.now() + pause >= deadline) throw error
        await sleep(pause, signal)
      }
    }
  }
}
