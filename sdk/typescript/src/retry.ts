/**
 * Retries: which errors are retried, and after which pause. `sdk/cases/retry.json` has the rules.
 *
 * `secret.ts` decides which calls are repeatable: reads, and writes with `expectedVersion`.
 */

import { clock } from './clock.js'
import { CODE, REASON, type AgentRouterError } from './errors.js'

/** The upper bound of the first pause, in milliseconds. */
export const BASE_MS = 100
/** Multiplies the upper bound from one pause to the next. */
export const FACTOR = 2
/** The largest upper bound, in milliseconds. The server may ask for a longer pause. */
export const CAP_MS = 2_000

/** The pause before retry number `retry`, from 0, in milliseconds. Undefined if the error is not retried. */
export function pauseMs(error: AgentRouterError, retry: number): number | undefined {
  const slowDown = error.code === CODE.RESOURCE_EXHAUSTED && error.reason !== REASON.BODY_TOO_LARGE
  if (error.code !== CODE.UNAVAILABLE && !slowDown) return undefined
  // A random part, so that clients which fail together do not retry together.
  return (error.retryAfterMs ?? 0) + clock.random() * Math.min(BASE_MS * FACTOR ** retry, CAP_MS)
}
