/**
 * The TypeScript SDK of AgentRouter.
 *
 * A thin layer over the generated messages (`gen/`) and the Connect transport for `fetch`: settings, the calls, retries,
 * {@link AgentRouterError} and a cache of values, {@link Secrets}.
 *
 * Deliberately absent: checks of what a request asks for (the server's rules are the only ones) and anything that prints
 * or logs. Nothing here is of Node alone, so that it runs in browsers too.
 *
 * @packageDocumentation
 */

export { Client } from './client.js'
export { AgentRouterError, ConfigError } from './errors.js'
export type { Code, Failure, FieldViolation, KnownReason, Reason, Setting } from './errors.js'
export * from './gen/tars/secret/v1/secret_pb.js'
export * as tars_secret_v1_secret_pb from './gen/tars/secret/v1/secret_pb.js'
export { STATUS } from './secret.js'
export type { CallOptions, SecretClient, Status } from './secret.js'
export { Secrets } from './secrets.js'
export type { SecretsOptions } from './secrets.js'
export type { ClientOptions } from './settings.js'
