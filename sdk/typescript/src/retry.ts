/**
 * When a call is made again, and after how long.
 *
 * Only when it may help: UNAVAILABLE, which includes "cannot be reached", and RESOURCE_EXHAUSTED where that is about
 * rate. Whether the call cannot do harm twice is known to its caller, in `secret.ts`.
 */

import type { AgentRouterError } from './errors.js'

/** The first pause at its longest, in milliseconds; each later one may be twice as long. */
const BASE_MS = 100
/** The longest pause that is our own choice; the server's may be longer. */
const CAP_MS = 2_000

/** How long to wait before retry number `retry` (from 0), in milliseconds; undefined if there should be none. */
export function pauseMs(error: AgentRouterError, retry: number): number | undefined {
  // RESOURCE_EXHAUSTED says "too large" as well, which stays so.
  const slower = error.code === 'RESOURCE_EXHAUSTED' && error.reason !== 'BODY_TOO_LARGE'
  if (error.code !== 'UNAVAILABLE' && !slower) return undefined
  // Random over the whole range, and on top of what the server asks for: those who failed together come back apart.
  return (error.retryAfterMs ?? 0) + Math.random() * Math.min(BASE_MS * 2 ** retry, CAP_MS)
}

/** Waits, or until the signal is aborted. */
export function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    if (signal?.aborted) end()
    else signal?.addEventListener('abort', end)
  })
}
