/**
 * The TypeScript SDK of AgentRouter.
 *
 * A thin layer over the generated messages (`gen/`) and the Connect transport for `fetch`: settings, the calls, retries,
 * {@link AgentRouterError} and a cache of values, {@link Secrets}.
 *
 * Deliberately absent: checks of requests, because the server has the rules, and anything that prints or logs. It runs in
 * browsers too: modules of Node are loaded at run time, and only if a setting needs one.
 *
 * @packageDocumentation
 */

export { Client } from './client.js'
export { AgentRouterError, CODE, ConfigError, REASON } from './errors.js'
export type { Code, Failure, FieldViolation, KnownReason, Reason, Setting } from './errors.js'
export * from './gen/tars/secret/v1/secret_pb.js'
export * as tars_secret_v1_secret_pb from './gen/tars/secret/v1/secret_pb.js'
export { STATUS } from './secret.js'
export type { CallOptions, SecretClient, Status } from './secret.js'
export { Secrets } from './secrets.js'
export type { SecretsOptions } from './secrets.js'
export type { Attempt, ClientOptions } from './settings.js'
export { create } from './text.js'
export type { MessageInitShape, MessageShape } from '@bufbuild/protobuf'
export type { Interceptor } from '@connectrpc/connect'
